"""
The sampling loop of omni_rt on CUDA devices.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
import typing_extensions
__all__: list[str] = ['CudaDevice', 'Device', 'DeviceArray', 'Loop']
class DeviceArray:
    """
    A contiguous array in device memory, for DLPack and the CUDA array interface.
    """
    def __dlpack__(self, *args, **kwargs) -> typing_extensions.CapsuleType:
        """
        A capsule; the memory is idle when it is returned.
        """
    def __dlpack_device__(self) -> tuple[int, int]:
        ...
    def write(self, values: numpy.ndarray) -> None:
        """
        Copy a NumPy array of as many bytes; waits.
        """
    @property
    def __cuda_array_interface__(self) -> dict:
        ...
    @property
    def dtype(self) -> str:
        ...
    @property
    def nbytes(self) -> int:
        ...
    @property
    def pointer(self) -> int:
        ...
    @property
    def shape(self) -> tuple:
        ...
class Device:
    """
    One stream of one device.
    """
    def empty(self, shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], dtype: str) -> DeviceArray:
        """
        A new array of zeros.
        """
    def synchronise(self) -> None:
        ...
    @property
    def memory(self) -> tuple[int, int]:
        """
        Bytes free and in all.
        """
    @property
    def name(self) -> str:
        ...
    @property
    def stream(self) -> int:
        """
        What engines enqueue on, as an integer.
        """
class Loop:
    """
    Executes plans for one shape on a device; owns the buffers.
    """
    def __init__(self, device: Device, *, batch: typing.SupportsInt | typing.SupportsIndex, channels: typing.SupportsInt | typing.SupportsIndex, frames: typing.SupportsInt | typing.SupportsIndex, guided: bool, dtype: str = 'float32') -> None:
        ...
    def forget_graphs(self) -> None:
        ...
    def read(self) -> numpy.typing.NDArray[numpy.float32]:
        """
        The latents [batch, C, L] as a NumPy array; waits.
        """
    def run(self, rows: numpy.typing.NDArray[numpy.float64], enqueue: collections.abc.Callable, *, start: numpy.typing.NDArray[numpy.float32], renoise: numpy.typing.NDArray[numpy.float32], cfg_scale: typing.SupportsFloat | typing.SupportsIndex, rescale: typing.SupportsFloat | typing.SupportsIndex, mode: str = 'replay', profile: bool = False, on_row: typing.Any = None, cancelled: typing.Any = None, finish: collections.abc.Callable | None = None, finish_key: typing.SupportsInt | typing.SupportsIndex = 0) -> bool:
        """
        Execute the rows; False if cancelled. `enqueue(stream)` is called to warm up and while a graph is captured, as is a chain's `finish(stream)`, whose graph is kept for its key; the GIL is held only inside callbacks.
        """
    @property
    def graphs(self) -> int:
        ...
    @property
    def latents(self) -> DeviceArray:
        """
        The result [batch, C, L], float32, on the device.
        """
    @property
    def nbytes(self) -> int:
        """
        Device memory of the buffers, without the graphs.
        """
    @property
    def row_times(self) -> list[tuple[float, float]]:
        """
        Microseconds (gap before, row) of every row of a profiled run.
        """
    @property
    def t(self) -> DeviceArray:
        """
        Engine input [rows], float32.
        """
    @property
    def velocity(self) -> DeviceArray:
        """
        Engine output [rows, C, L].
        """
    @property
    def x(self) -> DeviceArray:
        """
        Engine input [rows, C, L].
        """
class CudaDevice(Device):
    """
    A CUDA device and a stream of it.
    """
    def __init__(self, ordinal: typing.SupportsInt | typing.SupportsIndex = 0, *, stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        """
        `stream` is a cudaStream_t as an integer, borrowed; 0 makes one.
        """
