"""The two libraries of one API, TensorRT-RTX and TensorRT, by the names of their packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from omni_rt.engines.checks import one_line
from omni_rt.errors import EngineError

RTX, CLASSIC = "tensorrt_rtx", "tensorrt"
INSTALL: Mapping[str, str] = {
    RTX: "pip install 'omni_rt[rtx]'",
    CLASSIC: "install JetPack's or NVIDIA's TensorRT for Python",
}


def library_named(name: str) -> Any:
    """The library's module. Raises EngineError if it is none of the two, or not installed."""
    if name not in INSTALL:
        raise EngineError(f"{name!r} is no TensorRT: one of {', '.join(INSTALL)}")
    try:
        return import_module(name)
    except ImportError as error:
        missing = f"{name} cannot be imported ({one_line(error)}): {INSTALL[name]}"
        raise EngineError(missing) from error


def collector(library: Any, *, verbose: bool) -> Any:
    """A logger that keeps what a library says: `lines`, and `problems` of at least a warning."""

    class Collector(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.lines: list[str] = []
            self.problems: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if verbose:
                self.lines.append(message)
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.problems.append(message)

    return Collector()
