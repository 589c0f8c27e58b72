"""A GPU and a TensorRT of Python: what the engine asks of either is kept, checked and answered.

They stand in for a device where none is. What they prove is the engine's own part: the order of
checks, sizes, types, copies and who may run what; not that a real library behaves so.
"""

from __future__ import annotations

import math
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from omni_rt.errors import OutOfMemoryError

Compute = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class FakeDriver:
    """Memory as byte arrays by address."""

    def __init__(self, *, compute_capability: str = "8.9", free_bytes: int = 1 << 30) -> None:
        self.compute_capability, self.version, self.name = compute_capability, "12.6", "fake"
        self.free_bytes = free_bytes
        self.memory: dict[int, np.ndarray] = {}
        self.uploads: list[int] = []
        self.waited = self.allocations = 0
        self.streams: set[int] = set()
        self._next = 4096

    def use(self) -> None:
        pass

    def memory_bytes(self) -> tuple[int, int]:
        return self.free_bytes, 2 * self.free_bytes

    def allocate(self, size: int) -> int:
        if size > self.free_bytes:
            raise OutOfMemoryError("GPU memory")
        self.allocations += 1
        address, self._next = self._next, self._next + size + 256
        self.memory[address] = np.zeros(size, np.uint8)
        return address

    def free(self, address: int) -> None:
        del self.memory[address]

    def give_back(self, address: int) -> None:
        self.free(address)

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        assert array.flags.c_contiguous
        assert array.nbytes <= len(self.memory[address])
        self.uploads.append(address)
        self.memory[address][: array.nbytes] = array.reshape(-1).view(np.uint8)

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        array.reshape(-1).view(np.uint8)[:] = self.memory[address][: array.nbytes]

    def new_stream(self) -> int:
        self.streams.add(7 + len(self.streams))
        return max(self.streams)

    def end_stream(self, stream: int) -> None:
        self.streams.remove(stream)

    def wait(self, stream: int) -> None:
        self.waited += 1


class OnGpu:
    """A buffer in the fake GPU's memory, as CUDA libraries hand them around."""

    def __init__(self, driver: FakeDriver, array: np.ndarray) -> None:
        self.address = driver.allocate(array.nbytes)
        driver.upload(self.address, np.ascontiguousarray(array), 0)
        weakref.finalize(self, driver.give_back, self.address)
        self._driver, self.shape, self.dtype = driver, array.shape, array.dtype
        self.strides: tuple[int, ...] | None = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "data": (self.address, False), "shape": self.shape, "typestr": self.dtype.str,
            "strides": self.strides, "version": 3,
        }  # fmt: skip

    def numpy(self) -> np.ndarray:
        array = np.empty(self.shape, self.dtype)
        self._driver.download(array, self.address, 0)
        return array


@dataclass
class FakeTensorRt:
    """The part of either library that runs plans. `ports`: name → type inside the plan."""

    driver: FakeDriver
    ports: Mapping[str, str]
    outputs: Sequence[str]
    compute: Compute
    profiles: int = 1
    version: str = "1.7.1"
    validity: str = "VALID"
    fails: bool = False
    refusals: int = 0  # of contexts to come, for which there is no room
    says: str | None = None  # what it logs when a run fails
    loaded: list[bytes] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)
    starts: bool = True
    error: Callable[[str], None] = print  # its logger, once a plan is loaded
    kernels: bytes = b"kernels made here"
    serialised: int = 0  # how often they were asked for

    def module(self, *, rtx: bool = True) -> Any:
        """A module with the library's names."""
        fake = self

        class ILogger:
            ERROR, INTERNAL_ERROR, VERBOSE = "error", "internal", "verbose"

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger = logger
                if not fake.starts:
                    logger.log(ILogger.ERROR, "CUDA's\n number is wrong")
                    raise TypeError("factory function returned nullptr")

            def deserialize_cuda_engine(self, plan: bytes) -> Any:
                fake.loaded.append(plan)
                fake.error = lambda text: self.logger.log(ILogger.ERROR, text)
                if plan.startswith(b"broken"):
                    self.logger.log(ILogger.ERROR, "magic\n number is wrong")
                    return None
                return _Engine(fake, rtx=rtx)

        if rtx:
            Runtime.get_engine_validity = lambda self, plan: (  # type: ignore[attr-defined]
                types.SimpleNamespace(name=fake.validity), "OLD_CUDA_DRIVER",
            )  # fmt: skip
        strategies = types.SimpleNamespace(ON_PROFILE_CHANGE="on change")
        return types.SimpleNamespace(
            __version__=self.version, ILogger=ILogger, Runtime=Runtime,
            ExecutionContextAllocationStrategy=strategies,
            DynamicShapesKernelSpecializationStrategy=types.SimpleNamespace(
                EAGER="eager", NONE="none"
            ),
        )  # fmt: skip


class _Cache:
    def __init__(self, fake: FakeTensorRt) -> None:
        self._fake, self.kernels = fake, b""

    def deserialize(self, kept: bytes) -> bool:
        self.kernels = kept
        return True

    def serialize(self) -> bytes:
        self._fake.serialised += 1
        return self.kernels or self._fake.kernels


class _Config:
    """What either library has."""

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy


class _RtxConfig(_Config):
    def __init__(self, fake: FakeTensorRt) -> None:
        self._fake = fake

    def create_runtime_cache(self) -> _Cache:
        return _Cache(self._fake)

    def set_runtime_cache(self, cache: _Cache) -> None:
        self.cache = cache


class _Engine:
    def __init__(self, fake: FakeTensorRt, *, rtx: bool) -> None:
        self._fake = fake
        self.num_io_tensors = len(fake.ports)
        self._rtx = rtx

    def create_runtime_config(self) -> _Config:
        """Of TensorRT since 10.9 too, but without a cache."""
        return _RtxConfig(self._fake) if self._rtx else _Config()

    def get_tensor_name(self, index: int) -> str:
        return list(self._fake.ports)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return types.SimpleNamespace(name=self._fake.ports[name])

    def create_execution_context(self, how: Any) -> Any:
        context = _Context(self._fake, how)
        self._fake.contexts.append(context)
        return context


_NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "BOOL": np.bool_}


class _Context:
    def __init__(self, fake: FakeTensorRt, how: Any) -> None:
        self._fake, self.how = fake, how
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.streams: list[int] = []

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        self._fake.refusals -= 1
        return profile < self._fake.profiles and self._fake.refusals < 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        zeros = {n: np.zeros(s, self._type(n)) for n, s in self.shapes.items()}
        return np.asarray(self._fake.compute(zeros)[name]).shape

    def execute_async_v3(self, stream: int) -> bool:
        self.streams.append(stream)
        if self._fake.fails:
            if self._fake.says is not None:
                self._fake.error(self._fake.says)
            return False
        memory = self._fake.driver.memory
        given = {
            name: self._seen(memory[self.addresses[name]], name, shape)
            for name, shape in self.shapes.items()
        }
        for name, value in self._fake.compute(given).items():
            array = np.ascontiguousarray(value, self._type(name))
            memory[self.addresses[name]][: array.nbytes] = array.reshape(-1).view(np.uint8)
        return True

    def _seen(self, piece: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
        kind = np.dtype(self._type(name))
        return piece[: math.prod(shape) * kind.itemsize].view(kind).reshape(shape)

    def _type(self, name: str) -> Any:
        return _NUMPY[self._fake.ports[name]]
