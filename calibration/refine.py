"""Rows and times of a fitted plan, moved together to where the latents end nearest.

LS3 takes the rows one by one, each onto the fine states at its own end. What counts is where the
last one ends, and errors on the way may make up for each other. So every weight and every time is
nudged by itself and the rows after it are followed, on three of four cases; of several damped
Gauss-Newton steps in all of them the one is taken that brings the fourth cases nearest, if any
does. The aim is that of bespoke solvers (Shaul et al., arXiv 2403.01329); differences need no
gradients, so any engine will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from omni_rt.calibration.fields import Field
from omni_rt.calibration.fine_path import FinePath
from omni_rt.calibration.replay import Replay
from omni_rt.calibration.row_fit import FittedRows, damped_solution
from omni_rt.encode import Floats
from omni_rt.metrics import rel_l2
from omni_rt.plans import Row
from omni_rt.sampling import DivergedError

Rows = tuple[Row, ...]
Tell = Callable[[str], None]

_NUDGE = 1e-3  # of weights near 1/N and times: beyond fp32's noise, and far from bending
_DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of each parameter's own square sum
_EVERY = 4  # of so many cases one decides on the damping, and whether a step is worth it
_WORTH = 0.99  # of the distance before
_SMALL = 0.3  # of the median distance: nearer cases weigh no more than such a one


def refined(
    fields: Sequence[Field],
    paths: Sequence[FinePath],
    fitted: FittedRows,
    *,
    rounds: int,
    tell: Tell = lambda _: None,
) -> FittedRows:
    """The rows after so many steps, or fewer where none brings cases nearer; it takes four cases.

    A round follows each of the rows, on every case, about four times as often as there are rows
    before it. Rows that lead to what is not finite are not taken.
    """
    targets = np.concatenate([path.at([fitted.grid[-1]]) for path in paths])
    deciding = np.arange(len(fields)) % _EVERY == _EVERY - 1
    if not deciding.any():
        return fitted
    moving, judging = (_Cases.of(fields, targets, which) for which in (~deciding, deciding))
    rows = fitted.rows
    for number in range(rounds):
        nearer = _nearer(moving, judging, rows, partial(_tell_row, tell, number + 1))
        if nearer is None:
            break
        rows = nearer
    try:
        return _judged(fields, paths, rows, fitted)
    except DivergedError:  # on one of those that did not decide
        return fitted


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Cases:
    """Some of the cases, and where they should end."""

    fields: Sequence[Field]
    targets: Floats

    @classmethod
    def of(cls, fields: Sequence[Field], targets: Floats, which: NDArray[np.bool_]) -> _Cases:
        chosen = [field for field, yes in zip(fields, which, strict=True) if yes]
        return cls(fields=chosen, targets=targets[which])

    def distances(self, ends: Floats) -> NDArray[np.float64]:
        """Relative L2 of each."""
        return np.array([rel_l2(a, b) for a, b in zip(ends, self.targets, strict=True)])

    def distance(self, rows: Rows) -> float:
        """Their mean, after these rows; infinite if they lead to what is not finite."""
        try:
            return float(self.distances(_end(Replay(self.fields), rows)).mean())
        except DivergedError:
            return np.inf


def _tell_row(tell: Tell, number: int, text: str) -> None:
    tell(f"round {number}, {text}")


def _nearer(moving: _Cases, judging: _Cases, rows: Rows, tell: Tell) -> Rows | None:
    """Rows a step on with which the judging cases end nearer; None if there are none."""
    try:
        ends = _end(Replay(moving.fields), rows)
        slopes = _slopes(moving.fields, rows, ends, tell)
    except DivergedError:
        return None
    scale = _scales(moving.distances(ends), moving.targets)
    left = ((ends - moving.targets) * scale).reshape(-1).astype(np.float64)
    slopes = (slopes * scale).reshape(len(slopes), -1)
    gram = (slopes @ slopes.T).astype(np.float64)
    towards = slopes @ left
    tried = [_moved(rows, damped_solution(gram, -towards, damping)) for damping in _DAMPINGS]
    found = {judging.distance(moved): moved for moved in tried if _falling(moved)}
    nearest = min(found, default=np.inf)
    return found[nearest] if nearest < _WORTH * judging.distance(rows) else None


def _scales(distances: NDArray[np.float64], targets: Floats) -> Floats:
    """By case, so that squares sum up to relative distances, in which no single case outweighs."""
    norms = np.linalg.norm(targets.reshape(len(targets), -1).astype(np.float64), axis=1)
    weights = 1 / np.maximum(distances, max(_SMALL * float(np.median(distances)), 1e-12))
    return (np.sqrt(weights) / norms).astype(np.float32)[:, None, None]


def _slopes(fields: Sequence[Field], rows: Rows, ends: Floats, tell: Tell) -> Floats:
    """What a nudge of each parameter moves the ends by, per nudge: [parameters, K, C, L]."""
    replay, found = Replay(fields), []
    for n, row in enumerate(rows):
        tell(f"row {n + 1} of {len(rows)}")
        after = rows[n + 1 :]
        if n:
            found.append(_end(replay.branch(), (replace(row, t=row.t + _NUDGE), *after)))
        replay.evaluate(row.t)
        for nudged in _nudged_weights(row):
            branch = replay.branch()
            branch.advance(nudged)
            found.append(_end(branch, after))
        replay.advance(row)
    return (np.stack(found) - ends) / np.float32(_NUDGE)


def _nudged_weights(row: Row) -> list[Row]:
    b = [tuple(w + _NUDGE * (i == k) for i, w in enumerate(row.b)) for k in range(len(row.b))]
    return [replace(row, a=row.a + _NUDGE), *(replace(row, b=weights) for weights in b)]


def _moved(rows: Rows, step: NDArray[np.float64]) -> Rows:
    """Rows by the step's parameters, in the order of their slopes: t (but of the first), a, b."""
    left, found = list(step), []
    for n, row in enumerate(rows):
        t = row.t + left.pop(0) if n else row.t
        a = row.a + left.pop(0)
        found.append(replace(row, t=float(t), a=float(a), b=tuple(w + left.pop(0) for w in row.b)))
    return tuple(found)


def _falling(rows: Rows) -> bool:
    return bool(np.all(np.diff([*(row.t for row in rows), 0.0]) < 0))


def _end(replay: Replay, rows: Rows) -> Floats:
    """Where these rows lead: x [K, C, L]."""
    for row in rows:
        replay.evaluate(row.t)
        replay.advance(row)
    return replay.x


def _judged(
    fields: Sequence[Field], paths: Sequence[FinePath], rows: Rows, before: FittedRows
) -> FittedRows:
    """The rows with their residuals."""
    if rows is before.rows:
        return before
    grid = (*(row.t for row in rows), before.grid[-1])
    replay, residuals = Replay(fields), []
    for row, end in zip(rows, grid[1:], strict=True):
        replay.evaluate(row.t)
        replay.advance(row)
        residuals.append(rel_l2(replay.x, np.concatenate([path.at([end]) for path in paths])))
    return FittedRows(grid=grid, rows=rows, residuals=tuple(residuals))
