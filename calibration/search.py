"""Mixed precision: which groups of matrices may be rounded under an error budget.

Each group of matrices, and each attention in FP8, is rounded alone in the torch stage, and the
guided velocity is compared with the exact one at states all along real trajectories: the error goes
through all that follows, and weighs as it does for whoever listens. Errors of different groups are
independent, so their squares add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from omni_rt.calibration.attention import CROSS, ProductSizes
from omni_rt.calibration.formats import Format
from omni_rt.calibration.recording import Recorded
from omni_rt.calibration.rounded_stage import linear, rounded
from omni_rt.calibration.smooth import Smoothing
from omni_rt.compare_steps import guided
from omni_rt.errors import ExportError
from omni_rt.export.graphs import Stage
from omni_rt.export.reference.engine import TorchEngine
from omni_rt.metrics import rel_l2

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What rounding a group alone does to the guided velocity."""

    group: str
    error: float  # relative L2 over all states
    values: int  # multiplications for a token: what keeping it in high precision costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a search found: every group's sensitivity, and the cheapest assignment in budget."""

    sensitivities: tuple[Sensitivity, ...]
    assignment: Assignment
    measured: float  # error of all that is rounded together


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Which groups stay in high precision, and what that should leave."""

    kept: tuple[str, ...]  # names of the groups
    predicted: float  # error of all the others together, as independent


def search(
    stage: Stage,
    smoothings: Sequence[Smoothing],
    calls: Sequence[Recorded],
    format: Format,
    *,
    budget: float,
    cfg_scale: float,
    progress: Progress,
    attentions: Mapping[str, ProductSizes] | None = None,
) -> Search:
    """The cheapest assignment whose measured error is at most `budget` (relative L2).

    Where the measured error is above the predicted one, the aim is lowered by their ratio.
    Raises ExportError for a budget that even one rounded group would miss.
    """
    attentions = attentions or {}
    found = sensitivities(
        stage,
        smoothings,
        calls,
        format,
        cfg_scale=cfg_scale,
        progress=progress,
        attentions=attentions,
    )
    exact, aim = [guided(call.arrays["v"], cfg_scale) for call in calls], budget
    while True:
        assignment = cheapest(found, budget=aim)
        rest = [s for s in smoothings if s.group.name not in assignment.kept]
        also = {name: own for name, own in attentions.items() if name not in assignment.kept}
        if not rest and not also:
            raise ExportError(f"no group of matrices can be rounded within an error of {budget:g}")
        with rounded(stage, rest, format, also):
            measured = velocity_error(stage, calls, exact, cfg_scale=cfg_scale)
        progress(f"{len(assignment.kept)} groups kept: error {measured:.4f} of {budget:g}")
        if measured <= budget:
            return Search(sensitivities=tuple(found), assignment=assignment, measured=measured)
        aim = min(aim, assignment.predicted) * 0.98 * budget / measured


def sensitivities(
    stage: Stage,
    smoothings: Sequence[Smoothing],
    calls: Sequence[Recorded],
    format: Format,
    *,
    cfg_scale: float,
    progress: Progress,
    attentions: Mapping[str, ProductSizes] | None = None,
) -> list[Sensitivity]:
    """Of every group and attention of `stage` (folded, exact) at recorded calls of the guided step.

    attentions: those that are in FP8, with their sizes.
    """
    exact = [guided(call.arrays["v"], cfg_scale) for call in calls]
    found = []
    for i, one in enumerate(candidates := _candidates(stage, smoothings, calls, attentions or {})):
        progress(f"sensitivity {i + 1} of {len(candidates)}: {one.name}")
        with rounded(stage, one.smoothings, format, one.attentions):
            error = velocity_error(stage, calls, exact, cfg_scale=cfg_scale)
        found.append(Sensitivity(group=one.name, error=error, values=one.values))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """What is rounded, or kept, as one."""

    name: str
    values: int
    smoothings: Sequence[Smoothing] = ()
    attentions: Mapping[str, ProductSizes] = field(default_factory=dict)


def _candidates(
    stage: Stage,
    smoothings: Sequence[Smoothing],
    calls: Sequence[Recorded],
    attentions: Mapping[str, ProductSizes],
) -> list[_Candidate]:
    groups = [
        _Candidate(
            name=s.group.name,
            values=sum(linear(stage, name).weight.numel() for name in s.group.matrices),
            smoothings=[s],
        )
        for s in smoothings
    ]
    return groups + [
        _Candidate(name=name, values=_products_of(name, calls), attentions={name: sizes})
        for name, sizes in attentions.items()
    ]


def _products_of(attention: str, calls: Sequence[Recorded]) -> int:
    """Multiplications of an attention for one token: two of the width with every key."""
    width = calls[0].arrays["prepend"].shape[-1]
    keys = [
        call.arrays["k_00"].shape[-2]
        if attention.endswith(CROSS)
        else call.arrays["prepend"].shape[1] + call.arrays["x"].shape[-1]
        for call in calls
    ]
    return 2 * width * max(keys)


def cheapest(found: Sequence[Sensitivity], *, budget: float) -> Assignment:
    """Keep as little as possible so that the predicted error is at most `budget`.

    What takes most of the squared error for each stored value is kept first; in the end, the
    largest that the others made needless are let go of.
    """

    def squared(kept: Collection[Sensitivity]) -> float:
        return math.fsum(s.error**2 for s in found if s not in kept)

    kept: list[Sensitivity] = []
    for sensitivity in sorted(found, key=lambda s: s.error**2 / s.values, reverse=True):
        if squared(kept) <= budget**2:
            break
        kept.append(sensitivity)
    for sensitivity in sorted(kept, key=lambda s: s.values, reverse=True):
        others = [s for s in kept if s is not sensitivity]
        if squared(others) <= budget**2:
            kept = others
    return Assignment(kept=tuple(s.group for s in kept), predicted=math.sqrt(squared(kept)))


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
