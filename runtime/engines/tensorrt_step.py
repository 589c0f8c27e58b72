"""The step's plan in the CUDA loop: everything on the GPU, one enqueue per row, captured once."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from omni_rt.cuda_loop import Bucket, CudaLoop, loop_on
from omni_rt.encode import Floats
from omni_rt.engines import Array
from omni_rt.engines.cuda_driver import CudaDriver
from omni_rt.engines.gpu import Gpu
from omni_rt.engines.plan_checks import PADDED
from omni_rt.engines.tensorrt import TensorRtEngine
from omni_rt.engines.tensorrt_binding import TensorRtBinding, padded_to
from omni_rt.manifest import BaseType, TensorSpec

if TYPE_CHECKING:
    from omni_rt import _cuda


class TensorRtStepEngine:
    """`dit_step` with the CUDA loop, which `omni_rt.sampling` asks instead of binding it.

    A single run, as `omni-rt verify` makes them, does not need the loop. The loop holds the plan
    and not this, so whoever drops this frees both at once.
    """

    def __init__(self, plan: TensorRtEngine, gpu: Gpu = Gpu()) -> None:  # noqa: B008  immutable
        """`gpu` says how the loop runs; it is the plan's."""
        self._plan, self._gpu = plan, gpu

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self._plan.inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self._plan.outputs

    @property
    def driver(self) -> CudaDriver:
        """The GPU that the plan lies on."""
        return self._plan.driver

    @property
    def base_type(self) -> BaseType:
        """The type of products that the graph does not round."""
        return self._plan.base_type

    def run(self, **inputs: Array) -> dict[str, Array]:
        """Run once, without the loop; outputs by name."""
        return self._plan.run(**inputs)

    def bind(self, buffers: Mapping[str, Array]) -> TensorRtBinding:
        """Fix a buffer for every input and output: NumPy's, or in the GPU's memory."""
        return self._plan.bind(buffers)

    @cached_property
    def loop(self) -> CudaLoop:
        """Raises EngineError if omni_rt was built without its CUDA loop."""
        return loop_on(TensorRtStep(self._plan), self._gpu)


class TensorRtStep:
    """The step that a loop binds."""

    dtype = "float32"

    def __init__(self, engine: TensorRtEngine) -> None:
        self._engine = engine

    @property
    def token_buckets(self) -> Sequence[int]:
        """The contexts that the plan was built for, ascending."""
        return self._engine.context_buckets

    def bind_device(
        self, bucket: Bucket, buffers: Mapping[str, _cuda.DeviceArray]
    ) -> TensorRtStepBinding:
        """Fix x, t and v to the loop's buffers; the rest gets memory of its own."""
        return TensorRtStepBinding(self._engine, bucket, buffers)


class TensorRtStepBinding:
    """A plan on fixed memory of the GPU."""

    def __init__(
        self, engine: TensorRtEngine, bucket: Bucket, buffers: Mapping[str, _cuda.DeviceArray]
    ) -> None:
        self._engine = engine
        sizes = {"R": bucket.rows, "Q": bucket.attending, PADDED: bucket.tokens}
        shapes = {
            port.name: tuple(sizes[n] if isinstance(n, str) else n for n in port.shape)
            for port in engine.inputs
        }
        _, sizes = engine.profile_of(shapes)
        self._held: dict[str, _GpuArray] = {}
        for port in engine.inputs:
            if port.name not in buffers:
                shape = tuple(sizes[n] if isinstance(n, str) else n for n in port.shape)
                self._held[port.name] = _GpuArray(engine.driver, shape, engine.type_of(port.name))
        bound: Mapping[str, Any] = {**buffers, **self._held}
        self._binding = engine.bind(bound)

    def fill(self, inputs: Mapping[str, Floats]) -> None:
        """Copy the inputs of a whole run. Returns when they are there."""
        driver, stream = self._engine.driver, self._engine.own_stream
        driver.use()
        ports = {port.name: port for port in self._engine.inputs}
        sent = []  # copies on a stream may read them until it is waited for
        for name, value in inputs.items():
            held = self._held[name]
            sent.append(padded_to(held.shape, ports[name], np.asarray(value, held.dtype)))
            driver.upload(held.address, sent[-1], stream)
        driver.wait(stream)

    def enqueue(self, stream: int) -> None:
        """Put one step on the stream. Raises EngineError if the library refuses it."""
        self._binding.enqueue(stream)


class _GpuArray:
    """Memory of the GPU, given back with it."""

    def __init__(self, driver: CudaDriver, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        driver.use()
        self.shape, self.dtype = shape, dtype
        self.address = driver.allocate(math.prod(shape) * dtype.itemsize)
        released = weakref.finalize(self, driver.give_back, self.address)
        released.atexit = False  # the driver frees what a process that ends still holds

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "data": (self.address, False),
            "shape": self.shape,
            "typestr": self.dtype.str,
            "strides": None,
            "version": 3,
        }
