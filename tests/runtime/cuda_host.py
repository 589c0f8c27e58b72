"""The CUDA loop's bindings on a device that is the processor (tests/csrc/host_module.cpp)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def built_module(name: str, *, how: str) -> ModuleType:
    """An extension module of a CMake build of this repository; skips where there is none."""
    if name in sys.modules:
        return sys.modules[name]
    found = sorted((REPOSITORY / "build").glob(f"c*/{name}.*.so"), key=lambda p: p.stat().st_mtime)
    if not found:
        pytest.skip(f"{name} is not built: {how}")
    spec = importlib.util.spec_from_file_location(name, found[-1])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module


def host_module() -> ModuleType:
    """`_cuda_host`."""
    return built_module("_cuda_host", how="make ctest")
