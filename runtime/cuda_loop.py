"""The loop on a CUDA device: a step is captured once per shape of a request, then replayed.

What the device does is csrc/cuda/loop.h's. Here: which shapes are told apart, how many of them are
kept, what a step has to offer, and what happens when memory runs out.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from omni_rt.encode import Floats, Prepared
from omni_rt.engines.gpu import KEPT_SHAPES, Gpu
from omni_rt.errors import Cancelled, EngineError, OutOfMemoryError
from omni_rt.options import OnStep, Sampling
from omni_rt.sampling import RunTimes, step_inputs

if TYPE_CHECKING:
    from omni_rt import _cuda

TOKEN_BUCKETS = (320, 384, 512, 1024, 2304)  # of a prompt with its transcript
MOST_CHAINED_ROWS = 16

Mode = Literal["replay", "chain", "enqueue", "ahead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The shape of a request: what a captured step is good for."""

    batch: int
    guided: bool
    attending: int  # Q: rows with a context, the first of the batch's or of both branches'
    tokens: int  # P, padded

    @property
    def rows(self) -> int:
        """R."""
        return 2 * self.batch if self.guided else self.batch


class DeviceBinding(Protocol):
    """A step whose buffers lie on the device and stay where they are."""

    def fill(self, inputs: Mapping[str, Floats]) -> None:
        """Copy the inputs that hold for a whole run: prepend, context_bias, k_00, v_00 …"""
        ...

    def enqueue(self, stream: int) -> None:
        """Put one step on the stream (a cudaStream_t) without waiting for anything."""
        ...


class DeviceStep(Protocol):
    """`dit_step` of an engine that runs on a CUDA device."""

    @property
    def dtype(self) -> str:
        """Type of x and v: "float32", "float16" or "bfloat16"; t is float32."""
        ...

    @property
    def token_buckets(self) -> Sequence[int]:
        """To which numbers of context tokens P is padded, ascending."""
        ...

    def bind_device(
        self, bucket: Bucket, buffers: Mapping[str, _cuda.DeviceArray]
    ) -> DeviceBinding:
        """Fix x, t and v to the loop's buffers, and make the others. Raises EngineError."""
        ...


class CudaModule(Protocol):
    """What of `omni_rt._cuda` the loop needs."""

    @property
    def Loop(self) -> type[_cuda.Loop]:  # noqa: N802  the extension's name
        ...


def cuda_module() -> CudaModule:
    """`omni_rt._cuda`. Raises EngineError if omni_rt was built without it."""
    try:
        module: CudaModule = import_module("omni_rt._cuda")
    except ImportError as error:
        raise EngineError(
            "omni_rt was built without its CUDA loop: where nvcc is, "
            "pip install . -C cmake.define.OMNI_RT_CUDA=ON"
        ) from error
    return module


def open_device(ordinal: int = 0, *, stream: int = 0) -> _cuda.Device:
    """A CUDA device on a stream of the caller's, or on one of its own.

    Raises EngineError without the extension, a driver, that device, or kernels for it.
    """
    cuda_module()
    from omni_rt._cuda import CudaDevice

    return CudaDevice(ordinal, stream=stream)


def loop_on(step: DeviceStep, gpu: Gpu) -> CudaLoop:
    """The loop of a session's options. Raises EngineError as `open_device` does."""
    device = open_device(gpu.ordinal, stream=gpu.stream)
    mode: Mode = "chain" if gpu.graph == "chain" else "replay"
    return CudaLoop(step, device, cuda_module(), mode=mode, kept=gpu.kept)


def padded_tokens(tokens: int, buckets: Sequence[int]) -> int:
    """The bucket of P context tokens; more than the largest stay what they are."""
    return next((bucket for bucket in buckets if bucket >= tokens), tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What is kept of a bucket: its loop with its graphs, and the step bound to it."""

    loop: _cuda.Loop
    binding: DeviceBinding


class CudaLoop:
    """Samples on one device, keeping the shapes used last. Thread-safe: others wait.

    `mode`: "replay" launches the captured step once per row; "chain" captures plans of up to 16
    rows as one graph, which can be neither watched nor cancelled while it runs; "enqueue" captures
    nothing; "ahead" replays with all rows on the stream at once, to be measured beside "replay".
    """

    def __init__(
        self,
        step: DeviceStep,
        device: _cuda.Device,
        module: CudaModule,
        *,
        mode: Mode = "replay",
        kept: int = KEPT_SHAPES,
    ) -> None:
        self.device, self.mode, self.kept = device, mode, kept
        self._step, self._module = step, module
        self._shapes: OrderedDict[Bucket, _Shape] = OrderedDict()  # the last one was used last
        self._lock = threading.Lock()
        self.row_times: list[tuple[float, float]] = []  # microseconds (gap before, row), last run

    @property
    def shapes(self) -> tuple[Bucket, ...]:
        """The shapes that are kept, the one used last at the end."""
        return tuple(self._shapes)

    def sample(
        self,
        how: Sampling,
        prepared: Sequence[Prepared],
        *,
        start: Floats,
        renoise: Floats,
        on_step: OnStep | None = None,
    ) -> tuple[Floats, RunTimes]:
        """Latents [B, C, L] from `start` [B, C, L]; `renoise` [rows with c ≠ 0, B, C, L].

        If memory runs out, all other shapes are let go and it is tried once more, from its first
        row. Raises Cancelled after at most one more row, OutOfMemoryError, and EngineError if the
        device or the step fails; each time the next call works, unless the error says that the
        device is lost.
        """
        longest = max(p.context.tokens for p in prepared)
        tokens = padded_tokens(longest, self._step.token_buckets)
        inputs = step_inputs(prepared, guided=how.guided, tokens=tokens)
        bucket = Bucket(
            batch=len(start),
            guided=how.guided,
            attending=len(inputs["context_bias"]),
            tokens=inputs["context_bias"].shape[-1],
        )

        def run() -> tuple[Floats, RunTimes]:
            shape = self._shape(bucket, start.shape[1:])
            shape.binding.fill(inputs)
            return self._run(shape, how, start=start, renoise=renoise, on_step=on_step)

        with self._lock:
            try:
                return run()
            except OutOfMemoryError:
                if self._shapes.keys() <= {bucket}:  # there is nothing to let go of
                    raise
            # Here nothing of the error is left, which would hold on to memory.
            self._shapes.clear()
            return run()

    def release(self) -> None:
        """Let go of every shape's memory."""
        with self._lock:
            self._shapes.clear()

    def _shape(self, bucket: Bucket, latents: tuple[int, ...]) -> _Shape:
        if bucket not in self._shapes:
            while len(self._shapes) >= self.kept:
                self._shapes.popitem(last=False)
            self._shapes[bucket] = self._made(bucket, latents)
        self._shapes.move_to_end(bucket)
        return self._shapes[bucket]

    def _made(self, bucket: Bucket, latents: tuple[int, ...]) -> _Shape:
        loop = self._module.Loop(
            self.device,
            batch=bucket.batch,
            channels=latents[0],
            frames=latents[1],
            guided=bucket.guided,
            dtype=self._step.dtype,
        )
        buffers = {"x": loop.x, "t": loop.t, "v": loop.velocity}
        return _Shape(loop=loop, binding=self._step.bind_device(bucket, buffers))

    def _run(
        self,
        shape: _Shape,
        how: Sampling,
        *,
        start: Floats,
        renoise: Floats,
        on_step: OnStep | None,
    ) -> tuple[Floats, RunTimes]:
        chained = self.mode == "chain" and how.plan.evaluations <= MOST_CHAINED_ROWS
        mode = "replay" if self.mode == "chain" and not chained else self.mode
        begin = time.perf_counter()
        finished = shape.loop.run(
            how.plan.table(),
            shape.binding.enqueue,
            start=np.ascontiguousarray(start),
            renoise=np.ascontiguousarray(renoise),
            cfg_scale=how.cfg_scale,
            rescale=how.rescale,
            mode=mode,
            profile=not chained,
            on_row=on_step,
            cancelled=None if how.cancel is None else how.cancel.is_set,
        )
        if not finished:
            raise Cancelled("cancelled by the caller")
        latents = shape.loop.read()
        total_s = time.perf_counter() - begin
        self.row_times = shape.loop.row_times
        rows_s = sum(row_us for _, row_us in self.row_times) / 1e6
        return latents, RunTimes(total_s=total_s, engine_s=total_s if chained else rows_s)
