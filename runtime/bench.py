"""How long each stage and each step take, and how much memory: numbers, not opinions."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_rt.bench_thinker import ThinkerBench, bench_thinker
from omni_rt.bundle import Bundle
from omni_rt.encode import Context, Prepared
from omni_rt.engine_pool import EnginePool
from omni_rt.engines import Array, Engine
from omni_rt.engines.registry import AUTO, resolved
from omni_rt.errors import BundleError, RequestError
from omni_rt.flops import step_flops
from omni_rt.manifest import Dims, TensorSpec
from omni_rt.options import Sampling
from omni_rt.plan_choice import PlanChoice
from omni_rt.plans import make_plan
from omni_rt.preprocess.patches import patch_tables
from omni_rt.sampling import run_plan
from omni_rt.timing import WARM_UP_RUNS, Timing

Progress = Callable[[str], None]

_TEXT_TOKENS = 80  # of a usual prompt with its system turn
_GRID = (24, 24)  # patches of a conditioning frame, 336 × 336 pixels
_SEGMENTS_PER_S = 3  # of Synchformer: 30 for ten seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """What `bench` measured on this machine."""

    bundle: str
    engine: str
    threads: int | None
    stages: Mapping[str, Timing]
    step: Timing | None  # one evaluation inside the loop, guided but for a student's
    step_gflop: float | None
    step_gflop_per_s: float | None
    loop_overhead_percent: float | None  # of the loop, outside the engine
    context_tokens: int
    thinker: ThinkerBench | None
    synchformer_per_video_s: float | None  # seconds of work per second of video
    peak_rss_bytes: int


def peak_rss_bytes(*, children: bool = False) -> int:
    """Largest resident memory of this process so far, or of its largest finished child."""
    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    peak = resource.getrusage(who).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def example_sizes(dims: Dims) -> dict[str, int]:
    """Dynamic dimensions of a guided request with a usual prompt."""
    text = min(_TEXT_TOKENS, dims.context_tokens)
    return {
        "R": 2,
        "Q": 1,
        "P": text + dims.transcript_tokens,
        "n": text,
        "B": 1,
        "frames": dims.latent_frames,
        "samples": dims.latent_frames * dims.downsampling_ratio,
        "batch": 1,
        "seq": text,
        "chunks": 1,
        "grids": 1,
        "patches": _GRID[0] * _GRID[1],
        "S": 1,
    }


def example_inputs(
    ports: Sequence[TensorSpec], dims: Dims, stream: np.random.RandomState
) -> dict[str, NDArray[np.generic]]:
    """Random inputs of plausible values for a graph."""
    sizes = example_sizes(dims)
    inputs: dict[str, NDArray[np.generic]] = {}
    for port in ports:
        shape = [sizes[n] if isinstance(n, str) else n for n in port.shape]
        if port.dtype == "float32":
            inputs[port.name] = stream.standard_normal(shape).astype(np.float32)
        elif port.name == "position_ids":
            inputs[port.name] = np.broadcast_to(np.arange(shape[-1]), shape).astype(np.int64)
        elif port.name in ("pos_hw", "window_id"):
            assert dims.thinker is not None
            tables = patch_tables(*_GRID, dims.thinker)
            inputs[port.name] = getattr(tables, port.name)
        else:
            inputs[port.name] = np.ones(shape, np.dtype(port.dtype))
    return inputs


def example_prepared(dims: Dims, stream: np.random.RandomState) -> Prepared:
    """Random keys, values and prepended tokens of one request."""
    sizes = example_sizes(dims)
    shape = (1, dims.heads, sizes["P"], dims.head_width)

    def cache() -> list[NDArray[np.float32]]:
        return [stream.standard_normal(shape).astype(np.float32) for _ in range(dims.depth)]

    prepend = stream.standard_normal((1, dims.prepend_tokens, dims.width)).astype(np.float32)
    context = Context(keys=cache(), values=cache())
    return Prepared(context=context, negative=None, prepend=prepend)


def bench(
    bundle: Bundle,
    *,
    runs: int = 5,
    steps: int = 5,
    threads: int | None = None,
    engine: str = AUTO,
    stages: Sequence[str] | None = None,
    progress: Progress = lambda _: None,
) -> BenchReport:
    """Time every stage `runs` times and the loop for `steps` steps, after a warm-up.

    Steps are guided, but for a student's bundle.

    Raises RequestError for a count below 1, an unknown engine, or a stage the bundle lacks.
    """
    if runs < 1 or steps < 1:
        raise RequestError("runs and steps must be at least 1")
    dims, stream = bundle.manifest.dims, np.random.RandomState(0)
    guidance = PlanChoice(bundle).guidance(None)
    chosen = list(bundle.manifest.graphs) if stages is None else list(stages)
    pool = EnginePool(bundle, threads=threads, memory="resident", engine=engine)
    timings = {}
    step: Timing | None = None
    overhead: float | None = None
    thinker: ThinkerBench | None = None
    for stage in chosen:
        progress(stage)
        try:
            loaded = pool.get(stage)
        except BundleError as error:
            raise RequestError(str(error)) from error
        if stage == "dit_step":
            how = Sampling(plan=make_plan(f"euler-{steps}"), cfg_scale=guidance)
            step, overhead = _bench_loop(pool, dims, how, runs=runs, stream=stream)
            timings[stage] = step
        elif stage == "thinker_lm":
            thinker = bench_thinker(loaded, dims, runs=runs)
            timings[stage] = thinker.token[min(thinker.token)]
        else:
            inputs = example_inputs(loaded.inputs, dims, stream)
            timings[stage] = time_engine(loaded, inputs, runs=runs)
    segment = timings.get("synchformer")
    context = example_sizes(dims)["P"]
    rows = 1 if guidance == 1 else 2
    gflop = (
        None if step is None else step_flops(dims, rows=rows, attending=1, context=context) / 1e9
    )
    return BenchReport(
        bundle=bundle.id,
        engine=resolved(engine),
        threads=threads,
        stages=timings,
        step=step,
        step_gflop=gflop,
        step_gflop_per_s=None if step is None or gflop is None else gflop / step.p50_s,
        loop_overhead_percent=overhead,
        context_tokens=context,
        thinker=thinker,
        synchformer_per_video_s=None if segment is None else _SEGMENTS_PER_S * segment.p50_s,
        peak_rss_bytes=peak_rss_bytes(),
    )


def time_engine(engine: Engine, inputs: Mapping[str, Array], *, runs: int) -> Timing:
    """Time `runs` runs of an engine after those to warm up."""
    seconds = []
    for _ in range(WARM_UP_RUNS + runs):
        start = time.perf_counter()
        engine.run(**inputs)
        seconds.append(time.perf_counter() - start)
    return Timing.of(seconds[WARM_UP_RUNS:])


def _bench_loop(
    pool: EnginePool, dims: Dims, how: Sampling, *, runs: int, stream: np.random.RandomState
) -> tuple[Timing, float]:
    """Seconds per step inside the loop, and the loop's share outside the engine in %."""
    prepared = [example_prepared(dims, stream)]
    start = stream.standard_normal((1, dims.latent_channels, dims.latent_frames))
    per_step, engine_s, total_s = [], 0.0, 0.0
    for run in range(WARM_UP_RUNS + runs):
        _, times = run_plan(
            pool.get("dit_step"),
            how,
            prepared,
            start=start.astype(np.float32),
            renoise=np.zeros((0,), np.float32),
        )
        if run >= WARM_UP_RUNS:
            per_step.append(times.total_s / how.plan.evaluations)
            engine_s, total_s = engine_s + times.engine_s, total_s + times.total_s
    return Timing.of(per_step), 100 * (1 - engine_s / total_s)
