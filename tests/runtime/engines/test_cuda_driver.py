"""The driver through ctypes, on a library of Python: arguments, errors, memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from omni_rt.engines.cuda_driver import CudaDriver, address_of
from omni_rt.errors import EngineError


class FakeCuda:
    """libcuda's calls: every one succeeds but those in `codes`."""

    def __init__(self, **codes: int) -> None:
        self.codes, self.calls = codes, list[str]()

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.codes:
                return self.codes[name]
            return int(_ANSWERS.get(name, lambda *_: 0)(*arguments) or 0)

        return call


def _set(pointer: Any, value: Any) -> None:
    pointer._obj.value = value


_ANSWERS: dict[str, Callable[..., Any]] = {
    "cuDeviceGetCount": lambda out: _set(out, 2),
    "cuDeviceGetAttribute": lambda out, which, device: _set(out, {75: 8, 76: 9}[which]),
    "cuDriverGetVersion": lambda out: _set(out, 12060),
    "cuMemGetInfo_v2": lambda free, whole: (_set(free, 3_000_000), _set(whole, 8_000_000))[0],
    "cuMemAlloc_v2": lambda out, size: _set(out, 0x7F00),
    "cuStreamCreate": lambda out, flags: _set(out, 0x51),
    "cuGetErrorString": lambda code, out: _set(out, b"what happened"),
}


def test_what_it_says_of_the_gpu() -> None:
    driver = CudaDriver(FakeCuda())
    assert driver.compute_capability == "8.9"
    assert driver.version == "12.6"
    assert driver.memory_bytes() == (3_000_000, 8_000_000)
    assert driver.allocate(64) == 0x7F00
    assert driver.new_stream() == 0x51


def test_an_error_names_the_call_and_what_the_driver_says() -> None:
    with pytest.raises(EngineError, match=r"CUDA: cuInit: what happened \(999\)"):
        CudaDriver(FakeCuda(cuInit=999))
    driver = CudaDriver(FakeCuda(cuMemcpyHtoDAsync_v2=700))
    with pytest.raises(EngineError, match=r"cuMemcpyHtoDAsync_v2.*700"):
        driver.upload(0x7F00, np.zeros(3, np.float32), 0)


def test_a_gpu_is_taken_by_its_number_and_one_that_is_not_there_is_told() -> None:
    taken = list[int]()
    cuda = FakeCuda()
    cuda.cuDeviceGet = lambda out, ordinal: taken.append(ordinal) or 0  # type: ignore[attr-defined]
    CudaDriver(cuda, ordinal=1)
    assert taken == [1]
    with pytest.raises(EngineError, match="there is no CUDA device 3: 2 visible"):
        CudaDriver(FakeCuda(cuDeviceGet=101), ordinal=3)


def test_memory_that_is_not_there_is_said_in_megabytes() -> None:
    driver = CudaDriver(FakeCuda(cuMemAlloc_v2=2))
    with pytest.raises(EngineError, match="50 MB are needed, 3 of 8 MB are free"):
        driver.allocate(50_000_000)


def test_a_stream_and_the_context_are_let_go() -> None:
    cuda = FakeCuda()
    driver = CudaDriver(cuda)
    driver.end_stream(driver.new_stream())
    assert cuda.calls.count("cuStreamDestroy_v2") == 1
    assert "cuDevicePrimaryCtxRelease_v2" not in cuda.calls
    del driver
    assert cuda.calls.count("cuDevicePrimaryCtxRelease_v2") == 1


def test_a_forked_process_lets_nothing_go(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    driver = CudaDriver(cuda)
    stream, address = driver.new_stream(), driver.allocate(8)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    before = list(cuda.calls)
    driver.end_stream(stream)
    driver.give_back(address)
    del driver
    assert cuda.calls == before


def test_a_forked_process_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = CudaDriver(FakeCuda())
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(EngineError, match="forked"):
        driver.use()


def test_a_machine_without_a_driver_is_told_what_runs_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(EngineError, match=r"no NVIDIA driver.*--engine onnxruntime"):
        CudaDriver()


def test_numpy_lies_nowhere_on_a_gpu() -> None:
    assert address_of(np.zeros(3)) is None
