"""
The sampling loop of omni_rt on CUDA devices.
"""

from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing

__all__: list[str] = ["CudaDevice", "Device", "DeviceArray", "Loop"]

class DeviceArray:
    """
    A contiguous array in device memory, for DLPack and the CUDA array interface.
    """
    def __dlpack__(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def write(self, values: numpy.typing.NDArray[typing.Any]) -> None: ...
    @property
    def __cuda_array_interface__(self) -> dict[str, typing.Any]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def pointer(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

class Device:
    """
    One stream of one device.
    """
    def empty(self, shape: collections.abc.Sequence[int], dtype: str) -> DeviceArray: ...
    def synchronise(self) -> None: ...
    @property
    def memory(self) -> tuple[int, int]: ...
    @property
    def name(self) -> str: ...
    @property
    def stream(self) -> int: ...

class CudaDevice(Device):
    """
    A CUDA device and a stream of it.
    """
    def __init__(self, ordinal: int = 0, *, stream: int = 0) -> None: ...

class Loop:
    """
    Executes plans for one shape on a device; owns the buffers.
    """
    def __init__(
        self,
        device: Device,
        *,
        batch: int,
        channels: int,
        frames: int,
        guided: bool,
        dtype: str = "float32",
    ) -> None: ...
    def forget_graphs(self) -> None: ...
    def read(self) -> numpy.typing.NDArray[numpy.float32]: ...
    def run(
        self,
        rows: numpy.typing.NDArray[numpy.float64],
        enqueue: collections.abc.Callable[[int], None],
        *,
        start: numpy.typing.NDArray[numpy.float32],
        renoise: numpy.typing.NDArray[numpy.float32],
        cfg_scale: float,
        rescale: float,
        mode: str = "replay",
        profile: bool = False,
        on_row: collections.abc.Callable[[int, int], None] | None = None,
        cancelled: collections.abc.Callable[[], bool] | None = None,
        finish: collections.abc.Callable[[int], None] | None = None,
    ) -> bool: ...
    @property
    def graphs(self) -> int: ...
    @property
    def latents(self) -> DeviceArray: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def row_times(self) -> list[tuple[float, float]]: ...
    @property
    def t(self) -> DeviceArray: ...
    @property
    def velocity(self) -> DeviceArray: ...
    @property
    def x(self) -> DeviceArray: ...
