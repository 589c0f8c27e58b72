"""The cases that a solver is fitted to, and others that it is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from omni_rt.bundle import Bundle
from omni_rt.calibration.case import Case
from omni_rt.calibration.digest import digest_of
from omni_rt.calibration.inputs import calibration_set
from omni_rt.errors import ExportError

HELD_OUT_SEED = 1 << 20  # added to the seed of the fitted cases
MOST_CASES = 256  # of a kind: far more than change anything, and hours of trajectories
_FEWEST_TASKS = 6  # that any bundle with a `dit_step` has: T2A, T2M and four edits


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverCases:
    """Requests of all tasks, and a digest of all of them. `left_out`: task → why."""

    fitted: tuple[Case, ...]
    held_out: tuple[Case, ...]
    digest: str
    left_out: dict[str, str]


def solver_cases(
    bundle: Bundle, *, fitted: int, held_out: int, seed: int, audio: Path | None, folder: Path
) -> SolverCases:
    """So many cases of either kind, spread over the tasks; their videos are written to `folder`.

    Raises ExportError for counts below 1 or above 256 and for sounds that cannot be used.
    """
    for name, count in (("trajectories", fitted), ("held-out cases", held_out)):
        if not 1 <= count <= MOST_CASES:
            raise ExportError(f"a solver takes 1 to {MOST_CASES} {name}, got {count}")
    own, left_out = _drawn(bundle, fitted, seed, audio, folder / "fitted")
    others, _ = _drawn(bundle, held_out, seed + HELD_OUT_SEED, audio, folder / "held_out")
    digest = digest_of([*own, *others])
    return SolverCases(fitted=own, held_out=others, digest=digest, left_out=left_out)


def _drawn(
    bundle: Bundle, count: int, seed: int, audio: Path | None, folder: Path
) -> tuple[tuple[Case, ...], dict[str, str]]:
    drawn = calibration_set(
        bundle.manifest.dims,
        bundle.manifest.graphs,
        per_task=-(-count // _FEWEST_TASKS),
        seed=seed,
        audio=audio,
        folder=folder,
    )
    return spread(drawn.cases, count), dict(drawn.left_out)


def spread(cases: Sequence[Case], count: int) -> tuple[Case, ...]:
    """The first `count` requests, one of each task before the second of any. Questions are none."""
    by_task: dict[str, list[Case]] = {}
    for case in cases:
        if case.request is not None:
            by_task.setdefault(case.task, []).append(case)
    rounds = chain.from_iterable(zip_longest(*by_task.values()))
    return tuple(case for case in rounds if case is not None)[:count]
