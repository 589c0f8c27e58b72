"""`quantise --budget`: how far every group of the step's matrices is rounded, judged on real steps.

What can be chosen for each of them is put together here; `search.py` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from omni_rt.bundle import Bundle
from omni_rt.calibration.attention import CROSS, products_of
from omni_rt.calibration.case import Case
from omni_rt.calibration.formats import Format
from omni_rt.calibration.graph_writer import StageGraph
from omni_rt.calibration.ranges import Ranges
from omni_rt.calibration.recipes import Recipes, weights_alone
from omni_rt.calibration.recording import Recorded, Recorder
from omni_rt.calibration.search import Candidate, Search, search
from omni_rt.calibration.smooth import Smoothing
from omni_rt.calibration.trajectories import Course
from omni_rt.errors import ExportError

Progress = Callable[[str], None]

_STEP = "dit_step"
_CALLS = 4  # of the step, for each task


def searched(
    bundle: Bundle,
    recipes: Recipes,
    ranges: Ranges,
    cases: Iterable[Case],
    *,
    budget: float,
    course: Course,
    steps: int,
    weights_only: bool,
    progress: Progress,
) -> Search:
    """How the groups that `recipes` rounds are to be rounded, judged on one case of every task.

    weights_only: whether the target can multiply by rounded weights alone.
    Raises ExportError if nothing of the step is rounded, or nothing can be in the budget.
    """
    format = recipes.by_stage[_STEP].format
    if format is None:
        raise ExportError("this target rounds nothing of dit_step: no budget applies")
    recorder = Recorder(bundle, {s: r.folds for s, r in recipes.by_stage.items()}, most=_CALLS)
    one_each = {case.task: case for case in cases if case.request is not None}
    recorder.trajectories(
        one_each.values(),
        plan=course.plan(steps),
        cfg_scale=course.cfg_scale,
        tell=lambda name: progress(f"recording {name}"),
    )
    calls = recorder.calls(_STEP)
    offered = weights_only and format.activation is not None
    groups = recipes.smoothings[_STEP]
    alone = (
        weights_alone(bundle, ranges, _STEP, groups, format) if offered else [None] * len(groups)
    )
    return search(
        recorder.stage(_STEP),
        [*_groups(bundle, groups, alone, format), *_attentions(recipes, calls)],
        calls,
        format,
        budget=budget,
        cfg_scale=course.cfg_scale,
        progress=progress,
    )


def _groups(
    bundle: Bundle,
    folded: Sequence[Smoothing],
    alone: Sequence[Smoothing | None],
    format: Format,
) -> Iterator[Candidate]:
    """Of matrices, in a step that is folded as they are: with their weights alone where offered."""
    graph = StageGraph(bundle, _STEP)
    for own, other in zip(folded, alone, strict=True):
        shapes = {name: graph.tensors[name].shape for name in own.group.matrices}
        yield Candidate(
            name=own.group.name,
            values=sum(rows * columns for rows, columns in shapes.values()),
            kept_bytes=sum(
                graph.stored_bytes(name) - format.stored_bytes(rows, columns)
                for name, (rows, columns) in shapes.items()
            ),
            full=None if own.weights_only else own,
            weights=own if own.weights_only else other and other.beside(own),
        )


def _attentions(recipes: Recipes, calls: Sequence[Recorded]) -> Iterator[Candidate]:
    """Those in FP8. They store nothing, so keeping one costs what it multiplies."""
    recipe = recipes.by_stage[_STEP]
    for name, sizes in products_of(recipe.attention).items():
        if name not in recipe.spared:
            values = products_for_a_token(name, calls)
            yield Candidate(name=name, values=values, kept_bytes=0, attention=sizes)


def products_for_a_token(attention: str, calls: Sequence[Recorded]) -> int:
    """Multiplications of an attention for one token: two of the width with every key."""
    width = calls[0].arrays["prepend"].shape[-1]
    keys = [
        call.arrays["k_00"].shape[-2]
        if attention.endswith(CROSS)
        else call.arrays["prepend"].shape[1] + call.arrays["x"].shape[-1]
        for call in calls
    ]
    return 2 * width * max(keys)
