"""The CUDA loop timed: steps enqueued one by one and captured, and how long the device waits.

`omni-rt bench-cuda BUNDLE` times a bundle's own step so, without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omni_rt.bench import example_prepared
from omni_rt.bundle import Bundle
from omni_rt.cuda_loop import CudaLoop, Mode
from omni_rt.encode import Floats
from omni_rt.engines.gpu import Gpu
from omni_rt.engines.registry import engine_loader, placed, resolved
from omni_rt.errors import EngineError, RequestError
from omni_rt.options import Sampling
from omni_rt.plan_choice import PlanChoice
from omni_rt.plans import make_plan
from omni_rt.sampling import LoopedEngine, Noise, RunTimes
from omni_rt.timing import WARM_UP_RUNS, Timing

Progress = Callable[[str], None]
RowTimes = Sequence[tuple[float, float]]  # microseconds (gap before, row) of a run
NO_NOISE: Floats = np.zeros((0,), np.float32)
_MODES: tuple[Mode, ...] = ("enqueue", "replay", "ahead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Microseconds that the device waits for a row, of all rows of all runs but their first."""

    p50_us: float
    p90_us: float

    @classmethod
    def of(cls, runs: Sequence[RowTimes], free: Sequence[RowTimes]) -> Idle:
        """What rows take from the end of the one before, more than the median of `free` rows.

        `free` ran with all rows on the stream beforehand ("ahead"), so none waited for its launch.
        The mark of a row's begin is no measure: the device reaches it before the launch.
        """
        work_us = float(np.median([row_us for run in free for _, row_us in run]))
        waited = [gap_us + row_us - work_us for run in runs for gap_us, row_us in run[1:]]
        p50, p90 = np.percentile(waited or [0.0], [50, 90])
        return cls(p50_us=float(p50), p90_us=float(p90))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopTimes:
    """A loop in one mode."""

    per_step: Timing  # seconds, of whole runs divided by their steps
    idle: Idle


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopReport:
    """A bundle's step in the loop: what was measured, on which device."""

    device: str
    bundle: str
    engine: str
    steps: int
    cfg_scale: float
    modes: Mapping[Mode, LoopTimes]
    ratio: float  # median of steps enqueued one by one over that of replays
    same_bits: int  # of `repeats` replays of one noise, those with the first run's
    repeats: int


def time_modes(
    loop: CudaLoop, run: Callable[[], tuple[Floats, RunTimes]], *, steps: int, runs: int
) -> tuple[dict[Mode, LoopTimes], dict[Mode, Floats]]:
    """Times and latents of `runs` runs in every mode, in turns, after one of each to warm up."""
    seconds: dict[Mode, list[float]] = {mode: [] for mode in _MODES}
    rows: dict[Mode, list[RowTimes]] = {mode: [] for mode in _MODES}
    latents: dict[Mode, Floats] = {}
    for number in range(WARM_UP_RUNS + runs):
        for mode in _MODES:
            loop.mode = mode
            latents[mode], times = run()
            if number >= WARM_UP_RUNS:
                seconds[mode].append(times.total_s / steps)
                rows[mode].append(loop.row_times)
    found = {
        mode: LoopTimes(per_step=Timing.of(seconds[mode]), idle=Idle.of(rows[mode], rows["ahead"]))
        for mode in _MODES
    }
    return found, latents


def bench_loop(
    bundle: Bundle,
    *,
    engine: str,
    gpu: int = 0,
    steps: int = 100,
    runs: int = 5,
    repeats: int = 100,
    progress: Progress = lambda _: None,
) -> LoopReport:
    """Time one request of a bundle's own step, random but for its shape, in the loop.

    Raises RequestError for an engine without the loop, EngineError without a device or if captured
    and enqueued steps differ.
    """
    load = placed(engine_loader(engine), f"cuda:{gpu}", Gpu())
    progress("dit_step")
    step = load(bundle, "dit_step", None)
    loop = step.loop if isinstance(step, LoopedEngine) else None
    if not isinstance(loop, CudaLoop):
        raise RequestError(
            f"engine {engine!r} has no CUDA loop: tensorrt_rtx, tensorrt, torch_cuda"
        )
    dims = bundle.manifest.dims
    guidance = PlanChoice(bundle).guidance(None)
    how = Sampling(plan=make_plan(f"euler-{steps}"), cfg_scale=guidance)
    prepared = [example_prepared(dims, np.random.RandomState(0))]
    start: Floats = Noise(0, (dims.latent_channels, dims.latent_frames)).initial[None]

    def run() -> tuple[Floats, RunTimes]:
        return loop.sample(how, prepared, start=start, renoise=NO_NOISE)

    progress("enqueued, captured")
    modes, latents = time_modes(loop, run, steps=steps, runs=runs)
    if not np.array_equal(latents["replay"], latents["enqueue"]):
        raise EngineError("captured steps give other bits than the same steps enqueued one by one")
    progress("equal bits")
    loop.mode = "replay"
    same = sum(np.array_equal(run()[0], latents["replay"]) for _ in range(repeats))
    return LoopReport(
        device=loop.device.name,
        bundle=bundle.id,
        engine=resolved(engine),
        steps=steps,
        cfg_scale=guidance,
        modes=modes,
        ratio=modes["enqueue"].per_step.p50_s / modes["replay"].per_step.p50_s,
        same_bits=same,
        repeats=repeats,
    )
