"""The cases that a solver is fitted to, and others that it is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omni_rt.bundle import Bundle
from omni_rt.calibration.case import Case
from omni_rt.calibration.digest import digest_of
from omni_rt.calibration.inputs import drawn_requests
from omni_rt.errors import ExportError

HELD_OUT_SEED = 1 << 20  # added to the seed of the fitted cases
MOST_CASES = 256  # of a kind: far more than change anything, and hours of trajectories


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverCases:
    """Requests of all tasks, and a digest of all of them. `left_out`: task → why."""

    fitted: tuple[Case, ...]
    held_out: tuple[Case, ...]
    digest: str
    left_out: Mapping[str, str]


def solver_cases(
    bundle: Bundle, *, fitted: int, held_out: int, seed: int, audio: Path | None, folder: Path
) -> SolverCases:
    """So many cases of either kind, spread over the tasks; their videos are written to `folder`.

    Raises ExportError for counts below 1 or above 256 and for sounds that cannot be used.
    """
    for name, count in (("trajectories", fitted), ("held-out cases", held_out)):
        if not 1 <= count <= MOST_CASES:
            raise ExportError(f"a solver takes 1 to {MOST_CASES} {name}, got {count}")
    own = drawn_requests(bundle, fitted, seed=seed, audio=audio, folder=folder / "fitted")
    others = drawn_requests(
        bundle, held_out, seed=seed + HELD_OUT_SEED, audio=audio, folder=folder / "held_out"
    )
    return SolverCases(
        fitted=own.cases,
        held_out=others.cases,
        digest=digest_of([*own.cases, *others.cases]),
        left_out=own.left_out,
    )
