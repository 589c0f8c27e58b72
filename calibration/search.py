"""Mixed precision: how far each group of matrices may be rounded under an error budget.

A group is rounded in full, or its weights alone are, or it is kept in high precision. Every group
of matrices, and every attention in FP8, is rounded alone in the torch stage, and the guided
velocity is compared with the exact one at states all along real trajectories: the error goes
through all that follows, and weighs as it does for whoever listens. Errors of different groups are
independent, so their squares add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from omni_rt.calibration.attention import ProductSizes
from omni_rt.calibration.formats import Format
from omni_rt.calibration.recording import Recorded
from omni_rt.calibration.rounded_stage import rounded
from omni_rt.calibration.smooth import Smoothing
from omni_rt.compare_steps import guided
from omni_rt.errors import ExportError
from omni_rt.export.graphs import Stage
from omni_rt.export.reference.engine import TorchEngine
from omni_rt.metrics import rel_l2

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What rounding a group alone does to the guided velocity, and what sparing it costs."""

    group: str
    error: float | None  # relative L2 over all states; None: it may not be rounded in full
    weights_error: float | None = None  # with only its matrices rounded; None: that is not offered
    values: int  # multiplications for a token, in high precision unless it is rounded in full
    kept_bytes: int  # what is stored more if it is kept

    @property
    def least(self) -> float:
        """The smallest error of it that takes no more bytes than rounding it in full."""
        found = [e for e in (self.error, self.weights_error) if e is not None]
        return 0.0 if self.kept_bytes <= 0 else min(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a search found: every group's sensitivity, and the cheapest assignment in budget."""

    sensitivities: tuple[Sensitivity, ...]
    assignment: Assignment
    measured: float  # error of all that is rounded together


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Which groups are not rounded in full, and what error that should leave."""

    kept: tuple[str, ...]  # names of the groups in high precision
    weights_only: tuple[str, ...]  # of those whose matrices alone are rounded
    predicted: float  # error of all together, as independent


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What is rounded, or kept, as one: a group of matrices or an attention."""

    name: str
    values: int
    kept_bytes: int
    full: Smoothing | None = None
    weights: Smoothing | None = None
    attention: ProductSizes | None = None


def search(
    stage: Stage,
    candidates: Sequence[Candidate],
    calls: Sequence[Recorded],
    format: Format,
    *,
    budget: float,
    cfg_scale: float,
    progress: Progress,
) -> Search:
    """The cheapest assignment whose measured error is at most `budget` (relative L2).

    Where the measured error is above the predicted one, the aim is lowered by their ratio.
    Raises ExportError for a budget that even one rounded group would miss.
    """
    found = sensitivities(stage, candidates, calls, format, cfg_scale=cfg_scale, progress=progress)
    exact, aim = [guided(call.arrays["v"], cfg_scale) for call in calls], budget
    while True:
        assignment = cheapest(found, budget=aim)
        if len(assignment.kept) == len(candidates):
            raise ExportError(f"no group of matrices can be rounded within an error of {budget:g}")
        with assigned(stage, candidates, assignment, format):
            measured = velocity_error(stage, calls, exact, cfg_scale=cfg_scale)
        progress(
            f"{len(assignment.kept)} groups kept, of {len(assignment.weights_only)} the weights "
            f"alone rounded: error {measured:.4f} of {budget:g}"
        )
        if measured <= budget:
            return Search(sensitivities=tuple(found), assignment=assignment, measured=measured)
        aim = min(aim, assignment.predicted) * 0.98 * budget / measured


def sensitivities(
    stage: Stage,
    candidates: Sequence[Candidate],
    calls: Sequence[Recorded],
    format: Format,
    *,
    cfg_scale: float,
    progress: Progress,
) -> list[Sensitivity]:
    """Of every candidate in `stage` (folded, exact) at recorded calls of the guided step."""
    exact = [guided(call.arrays["v"], cfg_scale) for call in calls]

    def error(one: Candidate, *, weights_only: bool) -> float:
        with _rounded(stage, [(one, weights_only)], format):
            return velocity_error(stage, calls, exact, cfg_scale=cfg_scale)

    found = []
    for i, one in enumerate(candidates):
        progress(f"sensitivity {i + 1} of {len(candidates)}: {one.name}")
        in_full = one.full is not None or one.attention is not None
        sensitivity = Sensitivity(
            group=one.name,
            error=error(one, weights_only=False) if in_full else None,
            weights_error=None if one.weights is None else error(one, weights_only=True),
            values=one.values,
            kept_bytes=one.kept_bytes,
        )
        found.append(sensitivity)
    return found


def assigned(
    stage: Stage, candidates: Sequence[Candidate], assignment: Assignment, format: Format
) -> AbstractContextManager[None]:
    """The stage with every candidate as it is assigned."""
    rest = [
        (one, one.name in assignment.weights_only)
        for one in candidates
        if one.name not in assignment.kept
    ]
    return _rounded(stage, rest, format)


def _rounded(
    stage: Stage, chosen: Sequence[tuple[Candidate, bool]], format: Format
) -> AbstractContextManager[None]:
    """The stage with these candidates rounded, in full or, if said so, their weights alone."""
    smoothings = [one.weights if weights_only else one.full for one, weights_only in chosen]
    attentions = {one.name: one.attention for one, _ in chosen if one.attention is not None}
    return rounded(stage, [s for s in smoothings if s is not None], format, attentions)


def cheapest(found: Sequence[Sensitivity], *, budget: float) -> Assignment:
    """The assignment that takes fewest bytes and, of these, multiplies least in high precision.

    First as little as possible is kept, with all else at its least error in as few bytes; then as
    little as possible of that is spared full rounding. The predicted error is at most `budget`.
    """
    stored = [
        _Choice(group=s.group, rounded=s.least**2, spared=0.0, cost=s.kept_bytes) for s in found
    ]
    kept = _spared([c for c in stored if c.cost > 0], budget)
    multiplied = [
        _Choice(
            group=s.group,
            rounded=s.least**2 if s.error is None else s.error**2,
            spared=s.least**2,
            cost=s.values,
        )
        for s in found
        if s.group not in kept
    ]
    spared = _spared(multiplied, budget)
    spared += [s.group for s in found if s.error is None and s.group not in (*kept, *spared)]
    whole = {s.group for s in found if s.kept_bytes <= 0}
    return Assignment(
        kept=tuple(kept + [name for name in spared if name in whole]),
        weights_only=tuple(name for name in spared if name not in whole),
        predicted=math.sqrt(
            math.fsum(c.spared if c.group in spared else c.rounded for c in multiplied)
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """A group's squared error if it is rounded more and if it is spared that, at a cost."""

    group: str
    rounded: float
    spared: float
    cost: int


def _spared(choices: Sequence[_Choice], budget: float) -> list[str]:
    """Spare as little as possible so that the predicted error is at most `budget`.

    What takes most of the squared error for its cost is spared first; in the end, the dearest that
    the others made needless are let go of.
    """

    def squared(spared: Collection[_Choice]) -> float:
        return math.fsum(c.spared if c in spared else c.rounded for c in choices)

    spared: list[_Choice] = []
    worth = [c for c in choices if c.rounded > c.spared]
    for choice in sorted(worth, key=lambda c: (c.rounded - c.spared) / c.cost, reverse=True):
        if squared(spared) <= budget**2:
            break
        spared.append(choice)
    for choice in sorted(spared, key=lambda c: c.cost, reverse=True):
        others = [c for c in spared if c is not choice]
        if squared(others) <= budget**2:
            spared = others
    return [choice.group for choice in spared]


def velocity_error(
    stage: Stage,
    calls: Sequence[Recorded],
    exact: Sequence[np.ndarray],
    *,
    cfg_scale: float,
) -> float:
    """Relative L2 of a stage's guided velocity over all calls at once."""
    engine = TorchEngine(stage)
    names = [port.name for port in stage.ports.inputs]
    made = [
        guided(engine.run(**{name: call.arrays[name] for name in names})["v"], cfg_scale)
        for call in calls
    ]
    return rel_l2(
        np.concatenate([m.ravel() for m in made]), np.concatenate([e.ravel() for e in exact])
    )
