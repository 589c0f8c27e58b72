"""Mixed precision: which groups of matrices may be rounded under an error budget.

Each group alone is rounded in the torch stage, and the guided velocity is compared with the exact
one at states all along real trajectories: the error goes through all that follows, and weighs as
it does for whoever listens. Errors of different groups are independent, so their squares add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from omni_rt.calibration.formats import Format
from omni_rt.calibration.recording import Recorded
from omni_rt.calibration.rounding import rounded_activation, rounded_matrix
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
    values: int  # of its matrices: what keeping it in high precision costs


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
) -> Search:
    """The cheapest assignment whose measured error is at most `budget` (relative L2).

    Where the measured error is above the predicted one, the aim is lowered by their ratio.
    Raises ExportError for a budget that even one rounded group would miss.
    """
    found = sensitivities(stage, smoothings, calls, format, cfg_scale=cfg_scale, progress=progress)
    exact, aim = [guided(call.arrays["v"], cfg_scale) for call in calls], budget
    while True:
        assignment = cheapest(found, budget=aim)
        rest = [s for s in smoothings if s.group.name not in assignment.kept]
        if not rest:
            raise ExportError(f"no group of matrices can be rounded within an error of {budget:g}")
        with rounded(stage, rest, format):
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
) -> list[Sensitivity]:
    """Of every group of `stage` (folded, exact) at recorded calls of the guided step."""
    exact = [guided(call.arrays["v"], cfg_scale) for call in calls]
    found = []
    for i, smoothing in enumerate(smoothings):
        progress(f"sensitivity {i + 1} of {len(smoothings)}: {smoothing.group.name}")
        with rounded(stage, [smoothing], format):
            error = velocity_error(stage, calls, exact, cfg_scale=cfg_scale)
        values = sum(_linear(stage, name).weight.numel() for name in smoothing.group.matrices)
        found.append(Sensitivity(group=smoothing.group.name, error=error, values=values))
    return found


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


@contextmanager
def rounded(stage: Stage, smoothings: Sequence[Smoothing], format: Format) -> Iterator[None]:
    """The folded stage with these groups rounded as the graph will have them."""
    exact: Mapping[nn.Linear, Tensor] = {
        _linear(stage, name): _linear(stage, name).weight.data
        for smoothing in smoothings
        for name in smoothing.group.matrices
    }
    hooks = []
    try:
        for smoothing in smoothings:
            for name in smoothing.group.matrices:
                layer = _linear(stage, name)
                hooks.append(layer.register_forward_pre_hook(_rounding(smoothing.largest, format)))
                matrix = rounded_matrix(layer.weight.data, format, importance=smoothing.importance)
                layer.weight.data = matrix.dequantised()
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, weight in exact.items():
            layer.weight.data = weight


def _rounding(
    largest: float, format: Format
) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (rounded_activation(arguments[0], largest, format), *arguments[1:])

    return hook


def _linear(stage: Stage, name: str) -> nn.Linear:
    """The module whose weight has this official name."""
    for path, module in stage.module.named_modules():
        if isinstance(module, nn.Linear) and stage.official_name(f"{path}.weight") == name:
            return module
    raise AssertionError(name)
