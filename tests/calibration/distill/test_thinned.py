"""One set of trajectories for students of several numbers of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_rt.calibration.distill.cache import Cache, cache_facts
from omni_rt.calibration.distill.thinned import thinned
from omni_rt.errors import ExportError
from tests.calibration.distill.test_cache import filled
from tests.calibration.distill.tiny import arrays, requests, write_checkpoint


def facts(**options: Any) -> Any:
    asked = requests(**options)
    return cache_facts(asked.options, asked, sha256="abc", bf16=False)


def test_a_cache_of_more_steps_holds_those_of_fewer(tmp_path: Path) -> None:
    """To the bit: the teacher takes the same steps for both."""
    checkpoint = write_checkpoint(tmp_path / "teacher")
    filled(tmp_path / "four", checkpoint, steps=4)
    own = filled(tmp_path / "two", checkpoint, steps=2)[0].read()
    taken = thinned(tmp_path / "four", facts(steps=2), shards=2)
    assert taken[0][0].nodes.shape[0] == 3
    for ours, theirs in zip(taken, own, strict=True):
        for a, b in zip(arrays(list(ours)), arrays(list(theirs)), strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(thinned(tmp_path / "four", facts(steps=2), shards=1)) == 1


@pytest.mark.parametrize(
    ("cached", "wanted"),
    [
        ({"steps": 4}, {"steps": 3, "teacher_steps": 4}),  # 1/3 is none of the quarters
        ({"steps": 2}, {"steps": 4}),
        ({"steps": 4, "shift": 2.0}, {"steps": 2}),
        ({"steps": 4, "shift": 2.0}, {"steps": 2, "shift": 2.0}),  # other times between the nodes
        ({"steps": 4}, {"steps": 2, "teacher_steps": 8}),
    ],
)
def test_other_times_are_refused(
    tmp_path: Path, cached: dict[str, Any], wanted: dict[str, Any]
) -> None:
    Cache(tmp_path, facts(**cached), shards=1)
    with pytest.raises(ExportError, match="are not among them: a student of half as many steps"):
        thinned(tmp_path, facts(**wanted), shards=1)


def test_what_holds_no_such_trajectories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no trajectories"):
        thinned(tmp_path, facts(steps=2), shards=1)
    Cache(tmp_path, facts(steps=4), shards=1)
    with pytest.raises(ExportError, match=r"lacks 1 of 1 shards"):
        thinned(tmp_path, facts(steps=2), shards=1)
    with pytest.raises(ExportError, match="seed was 0, now 1"):
        thinned(tmp_path, facts(steps=2, seed=1), shards=1)
    (tmp_path / "cache.json").write_text('{"grid": "none"}')
    with pytest.raises(ExportError, match="holds no trajectories"):
        thinned(tmp_path, facts(steps=2), shards=1)
