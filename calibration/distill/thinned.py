"""Trajectories made for another student of the same teacher, at the times that both have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from omni_rt.calibration.distill.binding import Facts
from omni_rt.calibration.distill.cache import FACTS, Cache
from omni_rt.calibration.distill.shards import Shard
from omni_rt.calibration.distill.teacher import nested_plan
from omni_rt.errors import ExportError


def thinned(folder: Path, facts: Facts, *, shards: int) -> list[Shard]:
    """The first shards of a finished cache, of whose states those at the times of `facts` are seen.

    Raises ExportError if `folder` holds no such cache: of another teacher or other requests, with
    too few shards, without one of the times, or with others of the teacher's between them.
    """
    theirs = _facts_in(folder)
    places = _places(facts, theirs, folder)
    cache = Cache(folder, {**facts, "grid": theirs["grid"]}, shards=shards)
    return cache.read(nodes=places)


def _facts_in(folder: Path) -> Facts:
    path = folder / FACTS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _times(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{folder} holds no trajectories: {error}") from error
    assert isinstance(found, dict)
    return found


def _places(own: Facts, theirs: Facts, folder: Path) -> Sequence[int]:
    """Where among their times the own ones are."""
    grid, wanted = np.array(theirs["grid"], np.float64), np.array(own["grid"], np.float64)
    places = [int(np.abs(grid - t).argmin()) for t in wanted]
    alike = len(_times(own)) == len(_times(theirs)) and np.allclose(_times(own), _times(theirs))
    if not (np.allclose(grid[places], wanted) and alike):
        raise ExportError(
            f"{folder} has trajectories of {theirs['teacher']} at {len(grid)} times, and this "
            f"student's, of {own['teacher']} at {len(wanted)}, are not among them: a student of "
            "half as many steps, with the same --teacher-steps and no --shift, could use them"
        )
    return places


def _times(facts: Facts) -> tuple[float, ...]:
    """All of the teacher's."""
    grid, teacher = facts["grid"], facts["teacher"]
    if not isinstance(grid, list) or not isinstance(teacher, str):
        raise TypeError("times or teacher are missing")
    return nested_plan(grid, int(teacher.rpartition("-")[2])).grid
