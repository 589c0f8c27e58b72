"""Fine trajectories: the states that coarser rows are fitted to, at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_rt.calibration.fields import Field
from omni_rt.calibration.replay import Replay
from omni_rt.encode import Floats
from omni_rt.plans import Plan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FinePath:
    """One case's states [n + 1, C, L] at falling times [n + 1], and velocities [n, C, L] but for
    the last, at which nothing is evaluated."""

    times: NDArray[np.float64]
    states: Floats
    velocities: Floats

    def at(self, times: Sequence[float]) -> Floats:
        """States [m, C, L] at these times, between nodes by cubic Hermite interpolation.

        Its error is of the fourth order of the fine step; in the last interval, whose end has no
        velocity, of the third (the parabola through what there is).
        """
        return np.stack([self._at(t) for t in times])

    def _at(self, t: float) -> Floats:
        last = len(self.times) - 2
        n = min(int(np.searchsorted(-self.times, -t, side="right")) - 1, last)
        start, end, first = self.states[n], self.states[n + 1], self.velocities[n]
        step = self.times[n + 1] - self.times[n]
        chord = (end - start) / step
        second = self.velocities[n + 1] if n < last else 2 * chord - first
        u = (t - self.times[n]) / step
        bend = (u - 1) * (first - chord) + u * (second - chord)
        found: Floats = (start + u * (end - start) + u * (u - 1) * step * bend).astype(np.float32)
        return found


def fine_path(field: Field, plan: Plan) -> FinePath:
    """Follow an analytic plan of one row per step. Raises DivergedError."""
    assert plan.steps == plan.evaluations, "one row per step, or states and times do not pair"
    replay = Replay([field])
    states, velocities = [replay.x[0]], []
    for row in plan.rows:
        replay.evaluate(row.t)
        velocities.append(replay.ring[0][0])
        replay.advance(row)
        states.append(replay.x[0])
    return FinePath(
        times=np.array(plan.grid), states=np.stack(states), velocities=np.stack(velocities)
    )
