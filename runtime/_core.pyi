"""
The sampling loop of omni_rt.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
__all__: list[str] = ['Sampler']
class Sampler:
    """
    Executes the rows of a plan on a batch of latents; owns the buffers.
    """
    def __init__(self, *, batch: typing.SupportsInt | typing.SupportsIndex, channels: typing.SupportsInt | typing.SupportsIndex, frames: typing.SupportsInt | typing.SupportsIndex, guided: bool) -> None:
        ...
    def run(self, rows: numpy.typing.NDArray[numpy.float64], evaluate: collections.abc.Callable, *, renoise: numpy.typing.NDArray[numpy.float32], cfg_scale: typing.SupportsFloat | typing.SupportsIndex, rescale: typing.SupportsFloat | typing.SupportsIndex, on_row: typing.Any = None, cancelled: typing.Any = None) -> bool:
        """
        Execute the rows; False if cancelled. The GIL is held only inside the callbacks.
        """
    @property
    def engine_s(self) -> float:
        """
        Seconds of the last run inside `evaluate`.
        """
    @property
    def t(self) -> numpy.typing.NDArray[numpy.float32]:
        """
        Engine input [rows]: the time of the evaluation.
        """
    @property
    def total_s(self) -> float:
        """
        Seconds of the last run, without the callbacks of the last row.
        """
    @property
    def velocity(self) -> numpy.typing.NDArray[numpy.float32]:
        """
        Engine output [rows, C, L].
        """
    @property
    def x(self) -> numpy.typing.NDArray[numpy.float32]:
        """
        Engine input [rows, C, L]; its first `batch` rows are the latents.
        """
