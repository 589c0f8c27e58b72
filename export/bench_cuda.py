"""The loop on a CUDA device, measured in one run where there is one: `omni-rt bench-cuda`.

Kernels against the processor's, then captured steps against the same steps enqueued one by one and
against the original's PyTorch loop, how long the device waits between rows, equal bits, memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from omni_rt._core import Sampler
from omni_rt.bench_loop import Idle, time_modes
from omni_rt.cuda_loop import CudaLoop, Mode, cuda_module, open_device
from omni_rt.encode import Floats, Prepared
from omni_rt.errors import EngineError
from omni_rt.export.random_transformer import RandomTransformer, official_dims
from omni_rt.export.reference.cuda_engine import FP8_CAPABILITY, TorchDeviceStep, require_cuda
from omni_rt.export.reference.device_step import DeviceStep, Fp8Linear, HalfLinear, Linear
from omni_rt.flops import step_flops, unregrouped_flops
from omni_rt.metrics import rel_l2
from omni_rt.options import Sampling
from omni_rt.plans import make_plan
from omni_rt.sampling import Noise, RunTimes
from omni_rt.timing import Timing

if TYPE_CHECKING:
    from omni_rt._cuda import Device

CFG_SCALE = 7.0
CHAINED_PLAN = "ab3-16"
_KERNEL_PLANS = ("euler-5", "ab3-6", "abm2-6", "dpmpp2m-6", "consistency-4")
_KERNEL_SHAPES = ((1, 64, 236), (2, 9, 70), (3, 5, 129))

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """One way to make the same latents."""

    name: str
    per_step: Timing  # seconds, of whole runs divided by their steps
    ratio: float  # the original's median over this one's
    idle: Idle | None  # of the device between rows
    latents_rel_l2: float  # against the original's loop in the same run
    peak_bytes: int  # of torch's memory, the original's weights included: they stay loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaReport:
    """What was measured, on which device."""

    device: str
    torch: str
    depth: int
    width: int
    steps: int
    runs: int
    kernel_cases: int  # all equal to the processor's loop to the bit, or an error was raised
    original_gflop: float
    step_gflop: float
    rivals: tuple[Rival, ...]
    chain: Timing  # 16 rows as one graph
    replay: Timing  # the same 16 rows replayed
    same_bits: int  # runs of one seed whose bits were the first run's
    repeats: int


def bench_cuda(
    *,
    width: int = 2048,
    depth: int = 36,
    steps: int = 100,
    runs: int = 5,
    repeats: int = 100,
    progress: Progress = lambda _: None,
) -> CudaReport:
    """Measure everything. Raises EngineError without a device or the loop, or if kernels differ.

    Weights are random, of the official sizes unless said otherwise; guidance 7, one request.
    """
    require_cuda()
    progress("kernels")
    cases = compare_kernels()
    progress("weights")
    model = RandomTransformer.of(official_dims(width=width, depth=depth), "cuda")
    bench = _Bench(model, steps=steps, runs=runs)
    progress("original")
    rivals = [bench.original()]
    formats: dict[str, Linear] = {"bf16": HalfLinear}
    if torch.cuda.get_device_capability() >= FP8_CAPABILITY:
        formats["fp8"] = Fp8Linear
    for name, linear in formats.items():
        with bench.loop(linear) as loop:
            progress(name)
            rivals += bench.rivals(name, loop, first=rivals[0])
    with bench.loop(HalfLinear) as loop:
        progress("chain")
        chain, replay = (bench.short_runs(loop, mode) for mode in ("chain", "replay"))
        progress("equal bits")
        same = bench.same_bits(loop, repeats)
    dims = model.dims
    return CudaReport(
        device=torch.cuda.get_device_name(),
        torch=torch.__version__,
        depth=depth,
        width=width,
        steps=steps,
        runs=runs,
        kernel_cases=cases,
        original_gflop=unregrouped_flops(dims, rows=2) / 1e9,
        step_gflop=step_flops(dims, rows=2, attending=1, context=bench.tokens) / 1e9,
        rivals=tuple(rivals),
        chain=chain,
        replay=replay,
        same_bits=same,
        repeats=repeats,
    )


def compare_kernels() -> int:
    """How many cases the kernels computed with the bits of the loop on the processor.

    Raises EngineError naming the first that differs.
    """
    device, cases = open_device(), 0
    for plan in map(make_plan, _KERNEL_PLANS):
        for shape in _KERNEL_SHAPES:
            for guided, phi in ((False, 0.0), (True, 0.0), (True, 0.75)):
                how = Sampling(plan=plan, cfg_scale=CFG_SCALE if guided else 1.0, rescale=phi)
                found, wanted = _both_loops(device, how, shape, seed=cases)
                if not np.array_equal(found, wanted):
                    raise EngineError(f"kernels differ: {plan.name}, {shape}, {guided=}, {phi=}")
                cases += 1
    return cases


def _both_loops(
    device: Device, how: Sampling, shape: tuple[int, int, int], *, seed: int
) -> tuple[Floats, Floats]:
    """Latents of the device's loop and of the processor's, of a velocity that stays what it is."""
    batch, channels, frames = shape
    guided, table = how.guided, how.plan.table()
    sampler = Sampler(batch=batch, channels=channels, frames=frames, guided=guided)
    loop = cuda_module().Loop(device, batch=batch, channels=channels, frames=frames, guided=guided)
    stream = np.random.default_rng(seed)
    sampler.velocity[:] = stream.standard_normal(sampler.velocity.shape)
    start = stream.standard_normal(shape, dtype=np.float32)
    noise = stream.standard_normal((how.plan.renoise_rows, *shape), dtype=np.float32)
    scale, phi = how.cfg_scale, how.rescale
    sampler.x[:batch] = start
    loop.velocity.write(sampler.velocity)
    sampler.run(table, lambda: None, renoise=noise, cfg_scale=scale, rescale=phi)
    loop.run(table, lambda _: None, start=start, renoise=noise, cfg_scale=scale, rescale=phi)
    return loop.read(), sampler.x[:batch]


class _Bench:
    """One model, one request, one noise."""

    def __init__(self, model: RandomTransformer, *, steps: int, runs: int) -> None:
        self._model, self._runs = model, runs
        self._how = Sampling(plan=make_plan(f"euler-{steps}"), cfg_scale=CFG_SCALE)
        self._prepared: Prepared = model.prepared()
        self.tokens = self._prepared.context.tokens
        dims = model.dims
        self._start: Floats = Noise(0, (dims.latent_channels, dims.latent_frames)).initial[None]
        self._wanted: Floats = self._start

    def original(self) -> Rival:
        """The original's way: both branches over the whole padded context, fp16 by autocast."""
        noise, seconds = torch.from_numpy(self._start).cuda(), []
        torch.cuda.reset_peak_memory_stats()
        for run in range(self._runs + 1):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            found = self._model.original_latents(noise, self._how.plan, cfg_scale=CFG_SCALE)
            torch.cuda.synchronize()
            if run > 0:  # the first warms up
                seconds.append(time.perf_counter() - begin)
        self._wanted = found.float().cpu().numpy()
        return Rival(
            name="original, PyTorch fp16 autocast",
            per_step=self._per_step(seconds),
            ratio=1.0,
            idle=None,
            latents_rel_l2=0.0,
            peak_bytes=torch.cuda.max_memory_allocated(),
        )

    @contextmanager
    def loop(self, linear: Linear) -> Iterator[CudaLoop]:
        """A loop on the model's step with products of this kind; its memory is let go after it."""
        module = DeviceStep(self._model.regrouped, linear).to("cuda")
        stage = replace(self._model.stage(), module=module)
        loop = CudaLoop(TorchDeviceStep(stage), open_device(), cuda_module())
        try:
            yield loop
        finally:
            loop.release()
            torch.cuda.empty_cache()

    def rivals(self, name: str, loop: CudaLoop, *, first: Rival) -> list[Rival]:
        """Whole runs of the loop in every mode, in turns."""
        torch.cuda.reset_peak_memory_stats()
        modes, latents = time_modes(
            loop,
            lambda: self._sampled(loop, self._how),
            steps=self._how.plan.evaluations,
            runs=self._runs,
        )
        return [
            Rival(
                name=f"{name}, {mode}",
                per_step=times.per_step,
                ratio=first.per_step.p50_s / times.per_step.p50_s,
                idle=times.idle,
                latents_rel_l2=rel_l2(latents[mode], self._wanted),
                peak_bytes=torch.cuda.max_memory_allocated(),
            )
            for mode, times in modes.items()
        ]

    def short_runs(self, loop: CudaLoop, mode: Mode) -> Timing:
        """Whole runs of 16 rows."""
        loop.mode = mode
        how = Sampling(plan=make_plan(CHAINED_PLAN), cfg_scale=CFG_SCALE)
        runs = [self._sampled(loop, how)[1].total_s for _ in range(self._runs + 1)]
        return Timing.of(runs[1:])

    def same_bits(self, loop: CudaLoop, repeats: int) -> int:
        """How many runs of one noise give the first's bits, while other memory comes and goes."""
        loop.mode = "replay"
        how = Sampling(plan=make_plan(CHAINED_PLAN), cfg_scale=CFG_SCALE)
        wanted, _ = self._sampled(loop, how)
        same = 0
        for repeat in range(repeats):
            filled = torch.full((1 << 20, 1 + repeat % 8), float("nan"), device="cuda")
            same += np.array_equal(self._sampled(loop, how)[0], wanted)
            del filled
        return same

    def _sampled(self, loop: CudaLoop, how: Sampling) -> tuple[Floats, RunTimes]:
        return loop.sample(
            how, [self._prepared], start=self._start, renoise=np.zeros((0,), np.float32)
        )

    def _per_step(self, seconds: Sequence[float]) -> Timing:
        return Timing.of([s / self._how.plan.evaluations for s in seconds])
