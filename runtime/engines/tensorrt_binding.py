"""A plan bound to buffers: where each lies, what is copied, padded and converted around a run."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from omni_rt.engines import Array
from omni_rt.engines.cuda_driver import address_of
from omni_rt.engines.plan_checks import PADDED
from omni_rt.errors import EngineError
from omni_rt.manifest import TensorSpec
from omni_rt.sampling import PADDING_BIAS

if TYPE_CHECKING:
    from omni_rt.engines.tensorrt import TensorRtEngine

_HIDDEN = {"context_bias": PADDING_BIAS}  # what pads an input; others are padded with 0


class TensorRtBinding:
    """A plan with fixed buffers. While it lives, a context and memory for copies are its own."""

    def __init__(self, engine: TensorRtEngine, buffers: Mapping[str, Array]) -> None:
        self._engine, self._buffers = engine, dict(buffers)
        self._driver = engine.driver
        self._driver.use()
        shapes = {port.name: tuple(buffers[port.name].shape) for port in engine.inputs}
        self._profile, self._sizes = engine.profile_of(shapes)
        self._context, self._memory = engine.take(self._profile)
        # Holds what lies idle and not the engine, which would live as long as this then.
        released = weakref.finalize(
            self, engine.idle.give_back, self._profile, self._context, self._memory
        )
        released.atexit = False  # the driver frees what a process that ends still holds
        self._copies: dict[str, int] = {}  # addresses of ports whose buffers are not on the GPU
        self._made: dict[str, Array] = {}
        for port in engine.inputs:
            self._attach_input(port)
        for port in engine.outputs:
            self._attach_output(port)

    def enqueue(self, stream: int | None = None) -> None:
        """Compute the outputs from what the inputs hold now.

        On a stream (an address), work is only given to it, and may be captured; all buffers have to
        lie on the GPU then. Without one, outputs are there on return.
        """
        if stream is not None and self._copies:
            names = ", ".join(sorted(self._copies)[:3])
            raise EngineError(f"{self._engine.stage}: on a stream, {names} must lie on the GPU")
        self._driver.use()
        on = self._engine.own_stream if stream is None else stream
        for port in self._engine.inputs:
            if port.name in self._copies:
                self._upload(port, on)
        if not self._context.execute_async_v3(on):
            raise self._engine.failure("it failed while running")
        for name, array in self._made.items():
            self._driver.download(array, self._copies[name], on)
        if stream is None:
            self._driver.wait(on)
            self._hand_out()
        self._engine.keep_kernels(self._profile, self._sizes)

    def made(self) -> dict[str, Array]:
        """Outputs by name, in the graph's types, of the last run."""
        return {port.name: self._buffers[port.name] for port in self._engine.outputs}

    def _attach_input(self, port: TensorSpec) -> None:
        shape = tuple(self._sizes[n] if isinstance(n, str) else n for n in port.shape)
        buffer, kind = self._buffers[port.name], self._engine.type_of(port.name)
        address = address_of(buffer)
        if address is None:
            address = self._copy_of(port.name, math.prod(shape) * kind.itemsize)
        else:
            _check_on_gpu(self._engine.stage, port.name, buffer, shape, kind)
        if not self._context.set_input_shape(port.name, shape):
            raise self._engine.failure(f"{port.name} cannot be {list(shape)}")
        self._attach(port.name, address)

    def _attach_output(self, port: TensorSpec) -> None:
        shape = tuple(self._context.get_tensor_shape(port.name))
        kind = self._engine.type_of(port.name)
        buffer = self._buffers.setdefault(port.name, np.zeros(shape, port.dtype))
        if tuple(buffer.shape) != shape:
            raise EngineError(
                f"{self._engine.stage}: {port.name} must be {list(shape)}, got {list(buffer.shape)}"
            )
        address = address_of(buffer)
        if address is None:
            address = self._copy_of(port.name, math.prod(shape) * kind.itemsize)
            self._made[port.name] = buffer if buffer.dtype == kind else np.zeros(shape, kind)
        else:
            _check_on_gpu(self._engine.stage, port.name, buffer, shape, kind)
        self._attach(port.name, address)

    def _attach(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise self._engine.failure(f"{name} cannot lie there")

    def _copy_of(self, name: str, size: int) -> int:
        self._copies[name] = self._memory.room(name, size)
        return self._copies[name]

    def _upload(self, port: TensorSpec, stream: int) -> None:
        """Copy an input as it is now: in the plan's type, padded to the sizes it runs with."""
        array = np.asarray(self._buffers[port.name], self._engine.type_of(port.name))
        shape = tuple(self._sizes[n] if isinstance(n, str) else n for n in port.shape)
        self._driver.upload(self._copies[port.name], padded_to(shape, port, array), stream)

    def _hand_out(self) -> None:
        """Put outputs that the plan has in another type into the buffers."""
        for name, array in self._made.items():
            if array is not self._buffers[name]:
                self._buffers[name][...] = array


def padded_to(shape: tuple[int, ...], port: TensorSpec, array: Array) -> Array:
    """An input, contiguous, with as many context tokens as `shape` has; new ones are hidden."""
    if PADDED in port.shape:
        axis = port.shape.index(PADDED)
        more = [(0, 0)] * array.ndim
        more[axis] = (0, shape[axis] - array.shape[axis])
        array = np.pad(array, more, constant_values=_HIDDEN.get(port.name, 0))
    return np.ascontiguousarray(array)


def _check_on_gpu(
    stage: str, name: str, buffer: Any, shape: tuple[int, ...], kind: np.dtype[Any]
) -> None:
    """Raise EngineError unless a buffer on the GPU is what the plan reads or writes there."""
    facts = buffer.__cuda_array_interface__
    found = tuple(facts["shape"]), np.dtype(facts["typestr"])
    if found != (shape, kind) or facts.get("strides") is not None:
        raise EngineError(
            f"{stage}: {name} on the GPU must be contiguous {kind}{list(shape)}, got "
            f"{found[1]}{list(found[0])}"
        )
