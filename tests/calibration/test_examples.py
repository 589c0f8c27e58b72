"""Cases for the miniature: every kind it knows, and nothing that it is trained on or scored by."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from omni_rt.audio import on_grid
from omni_rt.calibration import examples
from omni_rt.calibration.case import stream_of
from omni_rt.calibration.inputs import calibration_set
from omni_rt.calibration.mixing import Stream
from omni_rt.export.miniature import data
from tests.calibration.sets import BLIND, recordings
from tests.export.miniature.fake_model import MINIATURE_DIMS


@pytest.mark.parametrize("per_task", [1, 3])
def test_every_kind_of_the_miniature_comes_at_least_once(
    per_task: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def draw(kind: str, stream: Stream) -> data.Example:
        drawn.append(kind)
        return data.draw(kind, stream)

    monkeypatch.setattr(examples, "data", _Replaced(draw))
    made = calibration_set(MINIATURE_DIMS, BLIND, per_task=per_task, folder=tmp_path)
    sightless = [k for k in data.KINDS if data.draw(k, Stream(0)).frames is None]
    assert set(sightless) <= set(drawn[len(data.KINDS) :])  # the first of each tells its task
    for task in made.tasks:
        assert sum(case.task == task for case in made.cases) >= per_task


class _Replaced:
    """The miniature's data, with another `draw`."""

    def __init__(self, draw: Callable[..., data.Example]) -> None:
        self.draw, self.KINDS, self.QUESTION_KINDS = draw, data.KINDS, data.QUESTION_KINDS


def test_nothing_is_shared_with_what_is_scored_or_trained_on(tmp_path: Path) -> None:
    made = calibration_set(MINIATURE_DIMS, BLIND, folder=tmp_path)
    own = [clip.samples[0] for case in made.cases for clip in recordings(case)]
    for seed in (0, 1, 5, 7, 2026):
        for kind in ("add", "remove", "extract", "style"):
            for example in islice(data.held_out(kind, seed=seed), 4):
                assert not any(np.array_equal(on_grid(example.source, 16), wave) for wave in own)
    # training's are of two words, a seed and a step
    (_, key, *_) = stream_of(0, "T2A", 0).get_state()
    assert not any(np.array_equal(key, Stream([0, step]).get_state()[1]) for step in range(100))
