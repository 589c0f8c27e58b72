"""What is fed to a model while its activations are observed: a seeded set, pinned by its digest.

A model of the miniature's tasks gets examples of its own kinds; any other, and one that is given
sounds, our captions with procedural or those sounds. A case does not depend on how many there are:
a larger set contains the smaller one. Recordings lie on the 16-bit grid, where the last bits of a
processor's sines are gone, so that the digest is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

from omni_rt.bundle import Bundle
from omni_rt.calibration.captioned import captioned_cases
from omni_rt.calibration.case import Case, case_of
from omni_rt.calibration.digest import digest_of
from omni_rt.calibration.draws import Draw
from omni_rt.calibration.examples import example_cases
from omni_rt.calibration.own_sounds import user_sounds
from omni_rt.errors import ExportError, RequestError
from omni_rt.export.miniature.film import what_video_needs
from omni_rt.export.miniature.scoring_run import check_model
from omni_rt.manifest import Dims
from omni_rt.tasks import Speech

__all__ = [
    "MOST_PER_TASK",
    "CalibrationSet",
    "Case",
    "calibration_set",
    "check_coverage",
    "drawn_requests",
    "restricted",
    "spread",
]

MOST_PER_TASK = 256  # far more than change anything, and all of them are held in memory

# What a task, or a way of asking, needs of a bundle: else it is left out. Others need nothing here:
# without a thinker, whoever feeds their recordings and words makes up its states.
_ANSWERS = ("thinker_embed", "thinker_lm")
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "V2A": ("vision_tower", "synchformer"),
    "V2M": ("vision_tower", "synchformer"),
    "TTS": ("transcript",),
    "VC": ("transcript",),
    "understand/audio": (*_ANSWERS, "audio_tower"),
    "understand/video": (*_ANSWERS, "vision_tower"),
    "understand/text": _ANSWERS,
}
_FEWEST_TASKS = 6  # that any bundle with a `dit_step` has: T2A, T2M and four edits
_FILMED = ("V2A", "V2M", "understand/video")
_SPEECH = "edits of speech have no request of one window: TTS and the edits cover their inputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSet:
    """Cases, and what pins them. `left_out`: task, or way of asking → why it is not in the set."""

    cases: tuple[Case, ...]
    digest: str  # see digest_of
    left_out: Mapping[str, str]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Each once, in the order of the cases."""
        return tuple(dict.fromkeys(case.task for case in self.cases))


def calibration_set(
    dims: Dims,
    stages: Collection[str],
    *,
    per_task: int = 4,
    seed: int = 0,
    audio: Path | None = None,
    folder: Path,
) -> CalibrationSet:
    """`per_task` cases or more of every task that a bundle of these sizes and stages can do.

    More where a task has more kinds, so that each comes at least once. audio: a folder with the
    sounds to use, at any depth. Videos that requests refer to are written into `folder`.
    Raises ExportError for what would be an empty set, for more than 256 cases of a task, and for
    sounds that cannot be used.
    """
    for name, value, least in (("per_task", per_task, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ExportError(f"calibration: {name} must be at least {least}, got {value!r}")
    if per_task > MOST_PER_TASK:
        raise ExportError(f"calibration: per_task must be at most {MOST_PER_TASK}, got {per_task}")
    left_out = _left_out(stages)
    sounds, hears = user_sounds(audio, dims=dims), "audio_tower" in stages
    draw = Draw(seed=seed, dims=dims, folder=folder, sounds=sounds, hears=hears)
    source = example_cases if audio is None and _is_miniature(dims) else captioned_cases
    try:
        folder.mkdir(parents=True, exist_ok=True)
        told_of = source(draw, per_task=per_task, left_out=left_out)
        cases = tuple(case_of(*told, seed=seed) for told in told_of)
    except OSError as error:
        raise ExportError(f"calibration: cannot write videos into {folder}: {error}") from error
    check_coverage(cases)
    return CalibrationSet(cases=cases, digest=digest_of(cases), left_out=left_out)


def check_coverage(cases: Collection[Case]) -> None:
    """Raise ExportError unless there are cases of at least two tasks."""
    tasks = sorted({case.task for case in cases})
    if len(tasks) < 2:
        what = f"of one task only ({tasks[0]})" if tasks else "empty"
        raise ExportError(
            f"the calibration set is {what}: rounding would fit nothing else; "
            "it needs cases of at least two tasks"
        )


def restricted(calibration: CalibrationSet, task: str) -> CalibrationSet:
    """The cases of one task alone, with a digest of their own: a bad set, to show what it does.

    Raises ExportError if there are none.
    """
    cases = tuple(case for case in calibration.cases if case.task == task)
    if not cases:
        known = ", ".join(calibration.tasks)
        raise ExportError(f"the calibration set has no case of {task!r}; it has {known}")
    return CalibrationSet(cases=cases, digest=digest_of(cases), left_out=calibration.left_out)


def drawn_requests(
    bundle: Bundle, count: int, *, seed: int, audio: Path | None, folder: Path
) -> CalibrationSet:
    """`count` requests, spread over the tasks of a bundle that samples, with a digest of their own.

    The other arguments and errors are those of `calibration_set`.
    """
    drawn = calibration_set(
        bundle.manifest.dims,
        bundle.manifest.graphs,
        per_task=-(-count // _FEWEST_TASKS),
        seed=seed,
        audio=audio,
        folder=folder,
    )
    cases = spread(drawn.cases, count)
    return replace(drawn, cases=cases, digest=digest_of(cases))


def spread(cases: Sequence[Case], count: int) -> tuple[Case, ...]:
    """The first `count` requests, one of each task before the second of any. Questions are none."""
    by_task: dict[str, list[Case]] = {}
    for case in cases:
        if case.request is not None:
            by_task.setdefault(case.task, []).append(case)
    rounds = chain.from_iterable(zip_longest(*by_task.values()))
    return tuple(case for case in rounds if case is not None)[:count]


def _left_out(stages: Collection[str]) -> dict[str, str]:
    reasons = {Speech.task: _SPEECH}
    for task, needed in _NEEDS.items():
        lacking = [stage for stage in needed if stage not in stages]
        unwritten = what_video_needs() if task in _FILMED else None
        if lacking:
            reasons[task] = f"the bundle has no {', '.join(lacking)}"
        elif unwritten is not None:
            reasons[task] = unwritten
    return reasons


def _is_miniature(dims: Dims) -> bool:
    try:
        check_model(dims)
    except RequestError:
        return False
    return True
