"""Torch stages on a CUDA device: the step in bf16 or FP8 in the captured loop, the others in fp32.

Offered through the entry-point group `omni_rt.engines` as `torch_cuda` and `torch_cuda_fp8`: any
CUDA GPU runs the loop without TensorRT, from an unrounded bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from omni_rt.bundle import Bundle
from omni_rt.cuda_loop import TOKEN_BUCKETS, Bucket, loop_on
from omni_rt.encode import Floats
from omni_rt.engines.checks import one_line
from omni_rt.engines.gpu import Gpu, GpuLoader, GpuMemory, StageNeeds, weights_alone
from omni_rt.errors import EngineError, OutOfMemoryError
from omni_rt.export.graphs import Stage
from omni_rt.export.reference.device_step import DeviceStep, Fp8Linear, HalfLinear, Linear
from omni_rt.export.reference.engine import TorchEngine, without_tf32
from omni_rt.export.reference.from_bundle import sizes_of, stage_of
from omni_rt.export.stages import DitStep
from omni_rt.manifest import BaseType, Precision

FP8_CAPABILITY = (8, 9)
_FP32_BYTES = 4.0


def _half(bundle: Bundle, stage: str, threads: int | None, gpu: Gpu) -> TorchEngine:
    """A stage on a CUDA device, the step in bf16. Raises EngineError without that device."""
    return _loaded(bundle, stage, HalfLinear, gpu)


def _fp8(bundle: Bundle, stage: str, threads: int | None, gpu: Gpu) -> TorchEngine:
    """As `_half`, the step's products in FP8. Raises EngineError for GPUs that have none."""
    require_fp8(gpu.ordinal)
    return _loaded(bundle, stage, Fp8Linear, gpu)


def _memory(bundle: Bundle, ordinal: int, *, step_bytes: float) -> GpuMemory:
    """Weights alone, fp32 but for the step's: torch does not say what it takes beside them."""
    require_cuda(ordinal)
    try:
        free, total = torch.cuda.mem_get_info(ordinal)
        name = torch.cuda.get_device_name(ordinal)
    except RuntimeError as error:
        raise EngineError(f"CUDA device {ordinal}: {one_line(error)}") from error
    stages = weights_alone(bundle, dict.fromkeys(get_args(Precision), _FP32_BYTES))
    if "dit_step" in stages:
        weights = round(stages["dit_step"].weights * step_bytes / _FP32_BYTES)
        stages["dit_step"] = StageNeeds(weights=weights)
    return GpuMemory(name=name, free_bytes=free, total_bytes=total, stages=stages)


load_engine = GpuLoader(name="torch_cuda", load=_half, look=partial(_memory, step_bytes=2.0))
load_fp8_engine = GpuLoader(name="torch_cuda_fp8", load=_fp8, look=partial(_memory, step_bytes=1.0))


def require_cuda(ordinal: int = 0) -> None:
    """Raise EngineError unless torch sees that CUDA device."""
    if not torch.cuda.is_available():
        build = torch.version.cuda
        have = f"torch {torch.__version__} " + (
            "was built without CUDA" if build is None else f"for CUDA {build} sees no device"
        )
        raise EngineError(f"engine torch_cuda needs a CUDA device and a torch for it: {have}")
    count = torch.cuda.device_count()
    if ordinal >= count:
        raise EngineError(f"there is no CUDA device {ordinal}: {count} visible")


def require_fp8(ordinal: int = 0) -> None:
    """Raise EngineError unless the device multiplies FP8."""
    require_cuda(ordinal)
    capability = torch.cuda.get_device_capability(ordinal)
    if capability < FP8_CAPABILITY:
        raise EngineError(
            f"FP8 products need compute capability 8.9, this GPU has {capability[0]}."
            f"{capability[1]}: use engine torch_cuda"
        )


def _loaded(bundle: Bundle, name: str, linear: Linear, gpu: Gpu) -> TorchEngine:
    require_cuda(gpu.ordinal)
    device = f"cuda:{gpu.ordinal}"
    stage = stage_of(bundle, name, sizes_of(bundle))
    try:
        if name == "dit_step":
            assert isinstance(stage.module, DitStep)
            stage = replace(stage, module=DeviceStep(stage.module, linear))
        stage.module.to(device)
    except RuntimeError as error:
        raise failure(name, error) from error
    return CudaStepEngine(stage, gpu) if name == "dit_step" else TorchEngine(stage, device)


def failure(stage: str, error: RuntimeError) -> EngineError:
    """What torch said, on one line: of memory, how much was missing."""
    kind = OutOfMemoryError if isinstance(error, torch.OutOfMemoryError) else EngineError
    return kind(f"{stage}: {one_line(error)}")


class CudaStepEngine(TorchEngine):
    """`dit_step` with a loop of its own, which `omni_rt.sampling` asks instead of binding it."""

    base_type: BaseType = "bfloat16"

    def __init__(self, stage: Stage, gpu: Gpu) -> None:
        super().__init__(stage, f"cuda:{gpu.ordinal}")
        self.loop = loop_on(TorchDeviceStep(stage, self.device), gpu)


class TorchDeviceStep:
    """The step that a loop binds."""

    dtype = "float32"
    token_buckets = TOKEN_BUCKETS

    def __init__(self, stage: Stage, device: str = "cuda:0") -> None:
        self._stage, self._device = stage, device

    def bind_device(self, bucket: Bucket, buffers: Mapping[str, Any]) -> TorchDeviceBinding:
        """Tensors of the loop's buffers, and new ones for the inputs of a whole run."""
        try:
            return TorchDeviceBinding(self._stage, bucket, buffers, self._device)
        except RuntimeError as error:
            raise failure(self._stage.name, error) from error


class TorchDeviceBinding:
    """A step on fixed tensors.

    What torch allocates while it warms up and is captured comes from a pool of its own, which lives
    as long as this: whatever else allocates, nobody writes where the graph does.
    """

    def __init__(
        self, stage: Stage, bucket: Bucket, buffers: Mapping[str, Any], device: str
    ) -> None:
        self._stage, self._device = stage, torch.device(device)
        self._pool = torch.cuda.MemPool() if self._on_gpu else None
        self._tensors: dict[str, Tensor] = {n: from_dlpack(b) for n, b in buffers.items()}
        sizes = {"R": bucket.rows, "Q": bucket.attending, "P": bucket.tokens}
        for port in stage.ports.inputs:
            if port.name not in self._tensors:
                shape = [sizes[n] if isinstance(n, str) else n for n in port.shape]
                dtype = torch.float32 if port.name == "prepend" else torch.bfloat16
                self._tensors[port.name] = torch.zeros(shape, dtype=dtype, device=device)
        if self._on_gpu:
            torch.cuda.synchronize(device)  # the zeros are of torch's stream, the loop has its own

    @property
    def _on_gpu(self) -> bool:
        return self._device.type == "cuda"

    def fill(self, inputs: Mapping[str, Floats]) -> None:
        """Copy the inputs of a whole run. Returns when they are there; EngineError if they cannot.

        An error of the GPU that sticks, and a fork, show here first.
        """
        try:
            for name, value in inputs.items():
                self._tensors[name].copy_(torch.from_numpy(value))
            if self._on_gpu:
                torch.cuda.synchronize(self._device)
        except RuntimeError as error:
            raise EngineError(f"{self._stage.name}: {one_line(error)}") from error

    def enqueue(self, stream: int) -> None:
        """Put one step on the stream. Raises EngineError if torch does."""
        try:
            with self._on(stream), torch.inference_mode(), without_tf32():
                self.compute()
        except RuntimeError as error:
            raise failure(self._stage.name, error) from error

    def compute(self) -> None:
        """v from the other tensors."""
        values = [self._tensors[port.name] for port in self._stage.ports.inputs]
        self._tensors["v"].copy_(self._stage.module(*self._stage.arguments(values)))

    @contextmanager
    def _on(self, stream: int) -> Iterator[None]:
        assert self._pool is not None  # there is no stream without a device
        loops = torch.cuda.ExternalStream(stream, device=self._device)
        with torch.cuda.stream(loops), torch.cuda.use_mem_pool(self._pool, device=self._device):
            yield
