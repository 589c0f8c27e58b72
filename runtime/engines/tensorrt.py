"""TensorRT-RTX and TensorRT: plans that `omni-rt build` compiled, run on the GPU they are for.

Buffers in the GPU's memory (anything with `__cuda_array_interface__`, as the CUDA loop's are) are
bound as they lie; NumPy's are copied to the GPU and back at every run.
"""

from __future__ import annotations

import re
import weakref
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from omni_rt.bundle import Bundle
from omni_rt.engines import Array
from omni_rt.engines.checks import check_arrays, check_buffers, one_line
from omni_rt.engines.cuda_driver import CudaDriver, address_of
from omni_rt.engines.jit_cache import JitCache
from omni_rt.engines.plan_checks import (
    PADDED,
    check_driver,
    driver_remedy,
    engines_for,
    profile_for,
    trusted_plan,
)
from omni_rt.engines.port_memory import PortMemory
from omni_rt.engines.tensorrt_binding import TensorRtBinding
from omni_rt.engines.tensorrt_library import collector
from omni_rt.errors import EngineError, OutOfMemoryError
from omni_rt.manifest import BaseType, TensorSpec

_TYPES = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64", "BOOL": "bool"}
_OUT_OF_MEMORY = re.compile("out ?of ?memory", re.IGNORECASE)  # "OutOfMemory", a code of errors
CAPTURED = "dit_step"  # kernels of this stage are all made before its first run


class Idle:
    """Contexts and memory that no binding uses. Called by the garbage collector: takes no lock."""

    def __init__(self) -> None:
        self.contexts: dict[int, list[Any]] = defaultdict(list)  # by profile
        self.memory: list[PortMemory] = []

    def take(self, profile: int) -> tuple[Any | None, PortMemory | None]:
        """A context of this profile, and memory, as far as there are any."""
        context = memory = None
        with suppress(IndexError):  # another thread may have taken the last one
            context = self.contexts[profile].pop()
        with suppress(IndexError):
            memory = self.memory.pop()
        return context, memory

    def clear(self) -> None:
        """Let go of all of it."""
        self.contexts.clear()
        self.memory.clear()

    def give_back(self, profile: int, context: Any, memory: PortMemory) -> None:
        """Let others use them."""
        self.contexts[profile].append(context)
        self.memory.append(memory)


class TensorRtEngine:
    """One plan on the GPU. Ports are the graph's, whatever types the plan has inside."""

    def __init__(
        self,
        bundle: Bundle,
        stage: str,
        *,
        library: Any,
        name: str,
        driver: CudaDriver | None = None,
    ) -> None:
        """Check and load a plan. GPU, versions and driver are looked at before the plan is opened.

        Raises EngineError naming the command that builds what is missing, and for a plan that was
        changed or that nobody trusted has signed.
        """
        self._ports, self._name = bundle.graph(stage), stage
        self._library = library
        self._driver = CudaDriver() if driver is None else driver
        self._driver.use()
        version = str(library.__version__)
        target, engines = engines_for(bundle, name, version, self._driver.compute_capability)
        plan = trusted_plan(bundle, stage, target, engines)
        self._spec = engines.stages[stage]
        self._check_memory()
        self._logger = collector(library, verbose=False)
        self._engine = self._loaded(plan, bundle, target)
        self._types = self._types_of_ports()
        self._cache = JitCache.of(self._engine, plan)
        self._compiled: set[tuple[int, ...]] = set()  # what kernels were kept for
        self.idle = Idle()
        self._stream = self._driver.new_stream()
        ended = weakref.finalize(self, self._driver.end_stream, self._stream)
        ended.atexit = False  # the driver ends with its process

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self._ports.inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self._ports.outputs

    @property
    def base_type(self) -> BaseType:
        """The type of products that the graph does not round."""
        return self._spec.base_type

    def run(self, **inputs: Array) -> dict[str, Array]:
        """Run once; outputs by name."""
        check_arrays(self._name, self.inputs, inputs)
        arrays = {name: np.require(array, requirements=["C"]) for name, array in inputs.items()}
        bound = TensorRtBinding(self, arrays)
        bound.enqueue()
        return bound.made()

    def bind(self, buffers: Mapping[str, Array]) -> TensorRtBinding:
        """Fix a buffer for every input and output: NumPy's, or in the GPU's memory."""
        on_host = {name: b for name, b in buffers.items() if address_of(b) is None}
        ports = [
            p for p in (*self.inputs, *self.outputs) if p.name in on_host or p.name not in buffers
        ]
        check_buffers(self._name, ports, on_host)
        return TensorRtBinding(self, buffers)

    # What a binding needs of its engine.

    @property
    def driver(self) -> CudaDriver:
        return self._driver

    @property
    def own_stream(self) -> int:
        """The stream of runs that are given none."""
        return self._stream

    @property
    def stage(self) -> str:
        return self._name

    def type_of(self, port: str) -> np.dtype[Any]:
        """A port's type inside the plan."""
        return self._types[port]

    @property
    def context_buckets(self) -> list[int]:
        """The numbers of context tokens that the plan was built for, ascending."""
        return sorted({profile.sizes[PADDED][2] for profile in self._spec.profiles})

    def profile_of(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, dict[str, int]]:
        """The profile for inputs of these shapes, and the dynamic sizes to run it with."""
        sizes = {
            name: size
            for port in self.inputs
            for name, size in zip(port.shape, shapes[port.name], strict=True)
            if isinstance(name, str)
        }
        index = profile_for(self._spec, self._name, sizes)
        if PADDED in sizes:
            sizes[PADDED] = max(sizes[PADDED], self._spec.profiles[index].sizes[PADDED][0])
        return index, sizes

    def take(self, profile: int) -> tuple[Any, PortMemory]:
        """A context of a profile, and memory for copies, that nobody else uses.

        Raises OutOfMemoryError.
        """
        context, memory = self.idle.take(profile)
        return (
            self._new_context(profile) if context is None else context,
            PortMemory(self._driver) if memory is None else memory,
        )

    def _new_context(self, profile: int) -> Any:
        context = self._made_context(profile)
        if context is None:
            self.idle.clear()  # contexts of other profiles may be what fills the memory
            context = self._made_context(profile)
        if context is None:
            free, whole = self._driver.memory_bytes()
            needed = self._spec.profiles[profile].activation_bytes
            raise OutOfMemoryError(
                f"{self._name}: no room to run: {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} "
                f"of {whole / 1e6:.0f} MB are free: {self._said()}"
            )
        self._driver.wait(self._stream)
        return context

    def _made_context(self, profile: int) -> Any | None:
        context = self._cache.new_context(self._library, eager=self._name == CAPTURED)
        if context is None or not context.set_optimization_profile_async(profile, self._stream):
            return None
        return context

    def keep_kernels(self, profile: int, sizes: Mapping[str, int]) -> None:
        """Keep what was compiled for this GPU by the first run of a profile, for the next start.

        Of the captured stage, whose kernels are for exact sizes, by the first run of any sizes.
        """
        what = (profile, *sizes.values()) if self._name == CAPTURED else (profile,)
        if what not in self._compiled:
            self._compiled.add(what)
            self._cache.keep()

    def failure(self, what: str) -> EngineError:
        """An error with what the library said last, which may be that memory ran out."""
        said = self._said()
        kind = OutOfMemoryError if _OUT_OF_MEMORY.search(said) else EngineError
        return kind(f"{self._name}: {what}: {said}")

    def _loaded(self, plan: bytes, bundle: Bundle, target: str) -> Any:
        """The library's engine. Raises EngineError that says what to update or to rebuild."""
        remedy = driver_remedy(bundle, target, self._driver.version)
        try:
            runtime = self._library.Runtime(self._logger)
        except TypeError as error:  # the bindings' word for a constructor that gave nothing
            raise EngineError(f"{self._name}: no runtime: {self._said()}: {remedy}") from error
        check_driver(runtime, plan, remedy=remedy)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"{self._name}: the plan cannot be loaded: {self._said()}: {remedy}")
        return engine

    def _said(self) -> str:
        problems = self._logger.problems
        return one_line(ValueError(problems[-1])) if problems else "the library does not say why"

    def _check_memory(self) -> None:
        """Raise OutOfMemoryError before loading what cannot fit."""
        free, whole = self._driver.memory_bytes()
        smallest = min(profile.activation_bytes for profile in self._spec.profiles)
        needed = self._spec.weight_bytes + smallest
        if needed > free:
            raise OutOfMemoryError(
                f"{self._name}: {needed / 1e6:.0f} MB of the GPU's memory are needed, "
                f"{free / 1e6:.0f} of {whole / 1e6:.0f} MB are free: memory='staged' loads fewer "
                "engines at once"
            )

    def _types_of_ports(self) -> dict[str, np.dtype[Any]]:
        """Types inside the plan. Raises EngineError if its ports are not the manifest's."""
        found = {
            name: _TYPES.get(self._engine.get_tensor_dtype(name).name)
            for name in map(self._engine.get_tensor_name, range(self._engine.num_io_tensors))
        }
        wanted = {port.name for port in (*self.inputs, *self.outputs)}
        if found.keys() != wanted or None in found.values():
            raise EngineError(
                f"{self._name}: the plan's ports are not the manifest's: {found}"[:400]
            )
        return {name: np.dtype(kind) for name, kind in found.items()}
