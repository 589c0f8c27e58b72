"""The step in the form that GPUs like: the same algebra, rounded where it says; on the processor.

Tests of the captured loop need a GPU, a torch for it and omni_rt built with CUDA: else they skip.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from omni_rt.bundle import Bundle
from omni_rt.cuda_loop import Bucket, CudaLoop, cuda_module, open_device
from omni_rt.encode import Floats
from omni_rt.engines.registry import engine_loader, engine_names
from omni_rt.errors import EngineError, OutOfMemoryError
from omni_rt.export.graphs import Stage
from omni_rt.export.random_transformer import RandomTransformer, official_dims
from omni_rt.export.reference.cuda_engine import TorchDeviceStep, failure, require_cuda, require_fp8
from omni_rt.export.reference.device_step import (
    DeviceStep,
    Fp8Linear,
    HalfLinear,
    Linear,
)
from omni_rt.metrics import rel_l2
from omni_rt.options import Sampling
from omni_rt.plans import make_plan
from omni_rt.sampling import step_inputs
from tests.runtime.cuda_host import host_module

# A bf16 value is off by up to 2^-9; a block's branch passes through about ten of them, which add up
# as noise: sqrt(10) · 2^-9 = .6 %. E4M3 values are off by up to 2^-4 and both factors of a product
# are: sqrt(2) · 2^-4 / sqrt(3) = 5 %, of a branch that is added to an exact residual.
BF16_BOUND, FP8_BOUND = 0.01, 0.1
NO_NOISE = np.zeros((0,), np.float32)


class Fp32Linear(HalfLinear):
    """A product without rounding."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


@cache
def transformer() -> RandomTransformer:
    return RandomTransformer.of(official_dims(width=128, depth=2), "cpu")


@cache
def inputs(tokens: int = 384) -> dict[str, Floats]:
    given = step_inputs([transformer().prepared()], guided=True, tokens=tokens)
    dims, stream = transformer().dims, np.random.RandomState(1)
    x = stream.standard_normal((2, dims.latent_channels, dims.latent_frames)).astype(np.float32)
    return {"x": x, "t": np.full(2, 0.5, np.float32), **given}


def step_of(linear: Linear) -> Stage:
    from dataclasses import replace

    stage = transformer().stage()
    return replace(stage, module=DeviceStep(transformer().regrouped, linear))


@torch.inference_mode()
def velocity(stage: Stage) -> Floats:
    values = [torch.from_numpy(inputs()[port.name]) for port in stage.ports.inputs]
    found: Floats = stage.module(*stage.arguments(values)).numpy()
    return found


def test_both_forms_of_a_random_transformer_make_the_same_latents() -> None:
    """To fp32's rounding of two blocks and two steps at cfg 7: the bound of guided latents."""
    model, plan = transformer(), make_plan("euler-2")
    noise = torch.from_numpy(inputs()["x"][:1])
    wanted = model.original_latents(noise, plan, cfg_scale=7.0)
    x = noise
    rest = [torch.from_numpy(inputs()[p.name]) for p in model.stage().ports.inputs[2:]]
    for row in plan.rows:
        t = torch.full((2,), row.t)
        with torch.no_grad():
            v = model.regrouped(*model.stage().arguments([torch.cat([x, x]), t, *rest]))
        x = x + row.b[0] * (v[1:] + 7.0 * (v[:1] - v[1:]))
    assert rel_l2(x.numpy(), wanted.numpy()) < 1e-4


@pytest.mark.parametrize(
    ("linear", "bound"), [(HalfLinear, BF16_BOUND), (Fp8Linear, FP8_BOUND)], ids=["bf16", "fp8"]
)
def test_rounding_stays_within_its_formats_bound(linear: Linear, bound: float) -> None:
    error = rel_l2(velocity(step_of(linear)), velocity(transformer().stage()))
    assert bound / 1000 < error < bound  # and something is rounded


def test_fp8_weights_are_scaled_by_channel() -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    weight *= torch.logspace(-3, 3, 32)[:, None]
    layer = Fp8Linear(weight, None)
    restored = layer.weight.float() * layer.scale.T
    assert layer.weight.float().abs().amax(1).eq(448).all()
    # half a step of E4M3's three bits, or of its smallest numbers (2^-10 of 448 · 2^-9)
    assert ((restored - weight).abs() <= weight.abs() / 16 + layer.scale.T * 2**-10).all()


def test_a_bound_step_follows_its_buffers_and_its_inputs() -> None:
    """On the processor, through the loop's own buffers."""
    host = host_module()
    loop = CudaLoop(TorchHostStep(host, step_of(HalfLinear)), host.HostDevice(), host)
    how = Sampling(plan=make_plan("euler-3"), cfg_scale=7.0)
    prepared = [transformer().prepared()]
    start = inputs()["x"][:1]
    latents, _ = loop.sample(how, prepared, start=start, renoise=NO_NOISE)
    noise = torch.from_numpy(start)
    wanted = transformer().original_latents(noise, how.plan, cfg_scale=7.0)
    # guidance at 7 multiplies the difference of two rounded velocities
    assert rel_l2(latents, wanted.numpy()) < 7 * BF16_BOUND
    again, _ = loop.sample(how, prepared, start=start, renoise=NO_NOISE)
    assert np.array_equal(again, latents)


def test_what_cuda_says_when_inputs_are_copied_is_an_engine_error() -> None:
    """Errors that stick, and a fork, show in the first copy of a run."""
    host = host_module()
    loop = CudaLoop(TorchHostStep(host, step_of(HalfLinear)), host.HostDevice(), host)
    how = Sampling(plan=make_plan("euler-1"))
    prepared, start = [transformer().prepared()], inputs()["x"][:1]
    loop.sample(how, prepared, start=start, renoise=NO_NOISE)
    (shape,) = loop._shapes.values()
    lost = shape.binding._tensors["prepend"]  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.Tensor, "copy_", _unspecified_launch_failure)
        with pytest.raises(EngineError, match="CUDA error: unspecified launch failure"):
            loop.sample(how, prepared, start=start, renoise=NO_NOISE)
    assert torch.isfinite(lost).all()
    loop.sample(how, prepared, start=start, renoise=NO_NOISE)


def _unspecified_launch_failure(*_: object) -> None:
    raise RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")


class TorchHostStep(TorchDeviceStep):
    """Enqueues on the processor's stream."""

    def __init__(self, host: ModuleType, stage: Stage) -> None:
        super().__init__(stage, "cpu")
        self._host = host

    def bind_device(self, bucket: Bucket, buffers: Any) -> Any:
        binding = super().bind_device(bucket, buffers)

        def compute() -> None:
            with torch.inference_mode():
                binding.compute()

        binding.enqueue = lambda stream: self._host.submit(stream, compute)  # type: ignore[method-assign]
        return binding


def test_engines_on_cuda_are_offered_by_name() -> None:
    assert {"torch_cuda", "torch_cuda_fp8"} <= set(engine_names())


@pytest.mark.parametrize("name", ["torch_cuda", "torch_cuda_fp8"])
def test_without_a_device_the_engine_says_what_is_missing(name: str, tmp_path: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    bundle: Any = Bundle.__new__(Bundle)
    with pytest.raises(EngineError, match="needs a CUDA device and a torch for it"):
        engine_loader(name)(bundle, "dit_step", None)


def test_torch_running_out_of_memory_is_told_as_such() -> None:
    """The loop lets go of other shapes then, and of nothing for other errors."""
    assert isinstance(failure("dit_step", torch.OutOfMemoryError("40 MiB")), OutOfMemoryError)
    other = failure("dit_step", RuntimeError("no kernel\nfor this"))
    assert type(other) is EngineError
    assert str(other) == "dit_step: no kernel for this"


@pytest.fixture(name="gpu")
def gpu_fixture() -> None:
    try:
        require_cuda()
        cuda_module()
    except EngineError as error:
        pytest.skip(str(error))


def device_loop(linear: Linear) -> tuple[CudaLoop, RandomTransformer]:
    from dataclasses import replace

    model = RandomTransformer.of(official_dims(width=128, depth=2), "cuda")
    module = DeviceStep(model.regrouped, linear).to("cuda")
    stage = replace(model.stage(), module=module)
    return CudaLoop(TorchDeviceStep(stage), open_device(), cuda_module()), model


@pytest.mark.usefixtures("gpu")
def test_replays_give_the_bits_of_steps_enqueued_one_by_one() -> None:
    loop, model = device_loop(HalfLinear)
    how = Sampling(plan=make_plan("ab3-12"), cfg_scale=7.0)
    made = {}
    for mode in ("enqueue", "replay", "chain"):
        loop.mode = mode  # type: ignore[assignment]
        made[mode], _ = loop.sample(
            how, [model.prepared()], start=inputs()["x"][:1], renoise=NO_NOISE
        )
    assert np.array_equal(made["replay"], made["enqueue"])
    assert np.array_equal(made["chain"], made["enqueue"])


@pytest.mark.usefixtures("gpu")
def test_replays_survive_unrelated_allocations() -> None:
    loop, model = device_loop(HalfLinear)
    how, prepared = Sampling(plan=make_plan("ab3-12"), cfg_scale=7.0), [model.prepared()]
    wanted, _ = loop.sample(how, prepared, start=inputs()["x"][:1], renoise=NO_NOISE)
    for repeat in range(20):
        torch.full((1 << 18, 1 + repeat), float("nan"), device="cuda")
        found, _ = loop.sample(how, prepared, start=inputs()["x"][:1], renoise=NO_NOISE)
        assert np.array_equal(found, wanted)


@pytest.mark.usefixtures("gpu")
def test_the_fp8_loop_stays_within_its_bound() -> None:
    try:
        require_fp8()
    except EngineError as error:
        pytest.skip(str(error))
    loop, model = device_loop(Fp8Linear)
    how = Sampling(plan=make_plan("euler-3"), cfg_scale=1.0)
    latents, _ = loop.sample(how, [model.prepared()], start=inputs()["x"][:1], renoise=NO_NOISE)
    exact, model = device_loop(HalfLinear)
    wanted, _ = exact.sample(how, [model.prepared()], start=inputs()["x"][:1], renoise=NO_NOISE)
    assert rel_l2(latents, wanted) < FP8_BOUND
