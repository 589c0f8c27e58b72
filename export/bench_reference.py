"""A bundle's guided step beside the original's arithmetic in torch, side by side in one run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from omni_rt.bundle import Bundle
from omni_rt.encode import Context, Prepared
from omni_rt.engines.ort import OrtEngine
from omni_rt.export.parity import CFG_SCALE, ParityInputs, ParityReference
from omni_rt.export.reference.from_bundle import from_bundle
from omni_rt.flops import step_flops, unregrouped_flops
from omni_rt.metrics import rel_l2
from omni_rt.options import Sampling
from omni_rt.plans import Plan, Row
from omni_rt.sampling import run_plan
from omni_rt.timing import Timing

_TEXT_TOKENS = 80
_TIME = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Times of a guided step, and how far the two velocities are apart."""

    original: Timing
    step: Timing
    original_gflop: float
    step_gflop: float
    ratio: float  # of the medians
    rel_l2: float
    loop_overhead_percent: float


def compare_with_reference(directory: Path, *, runs: int, threads: int) -> Comparison:
    """Interleave `runs` guided evaluations of both, after one of each to warm up."""
    bundle = Bundle.open(directory)
    dims = bundle.manifest.dims
    model = from_bundle(bundle)
    given = ParityInputs(
        dims, vocabulary=model.sizes.conditioners.vocabulary, hidden_tokens=_TEXT_TOKENS
    )
    reference = ParityReference(model, given)
    prepared = _prepared(reference.stage("context"), reference.stage("signal"), dims.depth)
    path, spec = bundle.graph_file("dit_step"), bundle.graph("dit_step")
    engine = OrtEngine(path, spec, threads=threads)
    one = Plan(name="velocity", rows=(Row(t=_TIME, a=0.0, b=(1.0,)),), grid=(1.0, 0.0))
    how = Sampling(plan=one, cfg_scale=CFG_SCALE)
    torch.set_num_threads(threads)
    originals, steps, overheads = [], [], []
    for run in range(runs + 1):
        begin = time.perf_counter()
        wanted = reference.guided_velocity(_TIME)
        middle = time.perf_counter()
        found, sampler = run_plan(
            engine,
            how,
            [prepared],
            start=given.noise.numpy(),
            renoise=np.zeros((0,), np.float32),
        )
        if run > 0:
            originals.append(middle - begin)
            steps.append(sampler.total_s)
            overheads.append(100 * (1 - sampler.engine_s / sampler.total_s))
    original, step = Timing.of(originals), Timing.of(steps)
    context = prepared.context.tokens
    return Comparison(
        original=original,
        step=step,
        original_gflop=unregrouped_flops(dims, rows=2) / 1e9,
        step_gflop=step_flops(dims, rows=2, attending=1, context=context) / 1e9,
        ratio=original.p50_s / step.p50_s,
        rel_l2=rel_l2(found, wanted),
        loop_overhead_percent=float(np.median(overheads)),
    )


def _prepared(
    context: dict[str, np.ndarray], signal: dict[str, np.ndarray], depth: int
) -> Prepared:
    return Prepared(
        context=Context.of(context, depth=depth),
        negative=None,
        prepend=signal["prepend"],
    )
