"""The transformer of two bundles: `context` and `dit_step` as a pair, which may be folded together.

Keys and values are each bundle's own, from the same states; so bundles whose folding differs are
compared by what comes out: the velocity.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omni_rt.bundle import Bundle
from omni_rt.compare_stages import PAIR, Opened, parity_inputs, parity_outputs, same_stages
from omni_rt.comparison import Difference, VelocityDifference
from omni_rt.encode import Context, Floats, Prepared
from omni_rt.engines import Array, BoundEngine
from omni_rt.metrics import rel_l2
from omni_rt.sampling import stack_contexts
from omni_rt.timing import Timing

# ONNX Runtime's threads spin after their work (1.31: for 40 ms of processor time, measured), and
# would slow the other bundle's.
PAUSE_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Times of each bundle, and B's velocities against A's (none if there is one bundle)."""

    times: tuple[Timing, ...]
    velocity: tuple[VelocityDifference, ...]


def has_pair(sides: Sequence[Opened]) -> bool:
    """Whether all have a transformer, and A's parity files feed it."""
    return same_stages(sides, *PAIR) and sides[0].bundle.manifest.parity.keys() >= set(PAIR)


def pair_velocity(side: Opened, parity: Bundle) -> Array:
    """The velocity [R, C, L] of `context` and `dit_step` on the parity inputs of both."""
    cache = side.run("context", parity_inputs(parity, "context"))
    inputs = {**parity_inputs(parity, "dit_step"), **cache}
    return side.run("dit_step", inputs)["v"]


def compared_pair(a: Opened, b: Opened | None) -> Difference:
    """B's velocity against A's; without B, A's against the reference's in its parity files."""
    if b is None:
        reference = parity_outputs(a.bundle, "dit_step", ["v"])["v"]
        return Difference.of(pair_velocity(a, a.bundle), reference)
    return Difference.of(pair_velocity(b, a.bundle), pair_velocity(a, a.bundle))


def parity_prepared(side: Opened, sides: Sequence[Opened]) -> Prepared:
    """A's parity inputs as a request of one of the sides, by its own stages.

    Prepended tokens are the reference's unless all have `signal` and A carries inputs of it.
    """
    parity = sides[0].bundle
    out = side.run("context", parity_inputs(parity, "context"))
    context = Context.of(out, depth=side.bundle.manifest.dims.depth)
    if same_stages(sides, "signal") and "signal" in parity.manifest.parity:
        prepend = side.run("signal", parity_inputs(parity, "signal"))["prepend"]
    else:
        prepend = parity_inputs(parity, "dit_step")["prepend"][:1]
    return Prepared(context=context, negative=None, prepend=np.asarray(prepend, np.float32))


def raced(
    sides: Sequence[Opened],
    prepared: Sequence[Prepared],
    noise: Floats,
    *,
    cfg_scale: float,
    runs: int,
) -> Race:
    """A, B, A, B …: one step each at the states that A goes through, in `runs` Euler steps.

    noise: [1, C, L]. A turn is a pause, a step that is not timed, and one that is. Raises
    EngineError if an engine fails or a velocity is not finite.
    """
    rows = 1 if cfg_scale == 1 else 2
    x, t = np.repeat(noise, rows, axis=0), np.empty(rows, np.float32)
    velocities = [np.empty_like(x) for _ in sides]
    bound = [
        _bound(side, one, x, t, v) for side, one, v in zip(sides, prepared, velocities, strict=True)
    ]
    seconds: list[list[float]] = [[] for _ in sides]
    found = []
    for step in range(runs):
        t[:] = 1 - step / runs
        for side, engine, taken, v in zip(sides, bound, seconds, velocities, strict=True):
            taken.append(timed_turn(engine))
            side.check_finite(v, "dit_step gave", "velocities")
        mixed = [guided(v, cfg_scale) for v in velocities]
        if len(sides) == 2:
            found.append(
                VelocityDifference(
                    t=float(t[0]),
                    rel_l2=rel_l2(velocities[1], velocities[0]),
                    guided_rel_l2=rel_l2(mixed[1], mixed[0]),
                )
            )
        x -= mixed[0] / np.float32(runs)
    return Race(times=tuple(Timing.of(taken) for taken in seconds), velocity=tuple(found))


def _bound(side: Opened, prepared: Prepared, x: Floats, t: Array, v: Floats) -> BoundEngine:
    buffers = {
        "x": x,
        "t": t,
        "prepend": np.repeat(prepared.prepend, len(x), axis=0),
        **stack_contexts([prepared.context]),
        "v": v,
    }
    return side.pool.get("dit_step").bind(buffers)


def timed_turn(engine: BoundEngine) -> float:
    """Seconds of a step after one that is not timed."""
    time.sleep(PAUSE_S)
    engine.enqueue()
    begun = time.perf_counter()
    engine.enqueue()
    return time.perf_counter() - begun


def guided(velocity: Array, cfg_scale: float) -> Floats:
    """[2B, C, L], conditional rows first, → [B, C, L]; at scale 1 there are no other rows.

    Source: arXiv:2207.12598, eq. 6, as w + 1.
    """
    rows = np.asarray(velocity, np.float32)
    if cfg_scale == 1:
        return rows
    conditional, other = np.split(rows, 2)
    mixed: Floats = other + np.float32(cfg_scale) * (conditional - other)
    return mixed
