"""What every engine checks of the arrays it is given, and how a library's error becomes a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from omni_rt.engines import Array
from omni_rt.errors import EngineError
from omni_rt.manifest import TensorSpec

_MOST_CHARACTERS = 300


def check_arrays(engine: str, ports: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> None:
    """Raise EngineError unless there is an array for every port, of its type and shape."""
    names = {port.name for port in ports}
    if arrays.keys() != names:
        wrong = ", ".join(sorted(arrays.keys() ^ names))
        raise EngineError(f"{engine}: {wrong}: missing, or no input or output of this graph")
    for port in ports:
        array = arrays[port.name]
        if not isinstance(array, np.ndarray) or array.dtype != np.dtype(port.dtype):
            found = getattr(array, "dtype", type(array).__name__)
            raise EngineError(f"{engine}: {port.name} must be {port.dtype}, got {found}")
        if not _fits(array.shape, port.shape):
            raise EngineError(
                f"{engine}: {port.name} must be {list(port.shape)}, got {list(array.shape)}"
            )


def check_buffers(engine: str, ports: Sequence[TensorSpec], buffers: Mapping[str, Array]) -> None:
    """Raise EngineError unless every port has a C-contiguous, writable buffer that fits it."""
    check_arrays(engine, ports, buffers)
    for name, array in buffers.items():
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise EngineError(f"{engine}: buffer {name} must be contiguous and writable")


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        isinstance(want, str) or have == want for have, want in zip(shape, wanted, strict=True)
    )


def one_line(error: BaseException) -> str:
    """What a library says, as one short line."""
    return " ".join(str(error).split())[:_MOST_CHARACTERS]
