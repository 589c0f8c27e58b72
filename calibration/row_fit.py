"""LS3: rows whose weights are fitted to a model, step by step, on its own states (spec SOLVERS §2).

x' = a·x + b0·h0 + b1·h1 + b2·h2 with h the last three velocities. At each step the rows that are
already fitted have been followed, and the four weights of the next are a least-squares fit onto
where fine trajectories are at its end: errors of earlier steps are part of what it corrects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_rt.calibration.fields import Field
from omni_rt.calibration.fine_path import FinePath
from omni_rt.calibration.replay import Replay
from omni_rt.encode import Floats
from omni_rt.metrics import rel_l2
from omni_rt.plans import Row, make_plan

# Of each weight's own diagonal entry. SOLVERS §2 has 3e-3; where trajectories are nearly straight,
# the three velocities are nearly one, and that holds back what tells them apart.
RIDGE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedRows:
    """Rows on a grid, and the relative L2 from the fine states after each, over all cases."""

    grid: tuple[float, ...]
    rows: tuple[Row, ...]
    residuals: tuple[float, ...]


def fit_rows(
    fields: Sequence[Field],
    paths: Sequence[FinePath],
    grid: Sequence[float],
    *,
    ridge: float = RIDGE,
) -> FittedRows:
    """Rows for these times, fitted to the cases' fine paths.

    Raises DivergedError if following them leads to what is not finite.
    """
    centre = make_plan(f"ab2-{len(grid) - 1}", grid=grid).rows
    replay = Replay(fields)
    rows: list[Row] = []
    residuals = []
    for start, end in zip(centre, grid[1:], strict=True):
        targets = np.concatenate([path.at([end]) for path in paths])
        replay.evaluate(start.t)
        row = _fitted(start, replay.x, replay.ring, targets, ridge)
        replay.advance(row)
        rows.append(row)
        residuals.append(rel_l2(replay.x, targets))
    return FittedRows(grid=tuple(grid), rows=tuple(rows), residuals=tuple(residuals))


def _fitted(centre: Row, x: Floats, ring: Sequence[Floats], targets: Floats, ridge: float) -> Row:
    """The row whose weights reach the targets best without going far from the centre's.

    Minimises ‖Fθ − y‖² + Σ ridge·G_ii·(θ_i − centre_i)², G = FᵀF. What is not in the ring yet has
    no weight.
    """
    features = np.stack([x, *ring]).astype(np.float64).reshape(1 + len(ring), -1)
    start = np.zeros(len(features))
    start[: 1 + len(centre.b)] = centre.a, *centre.b
    gram = features @ features.T
    left = targets.astype(np.float64).ravel() - start @ features
    weights = start + damped_solution(gram, features @ left, ridge)
    return Row(t=float(centre.t), a=float(weights[0]), b=tuple(weights[1:].tolist()))


def damped_solution(
    gram: NDArray[np.float64], right: NDArray[np.float64], damping: float
) -> NDArray[np.float64]:
    """θ of (G + damping·diag(G))·θ = right, and of many the least: what moves nothing stays put."""
    return np.linalg.lstsq(gram + damping * np.diag(np.diag(gram)), right)[0].astype(np.float64)
