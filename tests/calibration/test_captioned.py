"""Cases of our own captions."""

from __future__ import annotations

from pathlib import Path

from omni_rt.calibration import prompts
from omni_rt.calibration.inputs import calibration_set
from tests.calibration.sets import BLIND, blind
from tests.export.miniature.fake_model import MINIATURE_DIMS


def test_captions_of_a_task_do_not_come_twice(tmp_path: Path) -> None:
    made = blind(tmp_path, per_task=len(prompts.SOUNDS))
    said = [c.request.prompt for c in made.cases if c.task == "T2A"]  # type: ignore[union-attr]
    assert sorted(said) == sorted(prompts.SOUNDS)


def test_a_miniature_that_is_given_sounds_uses_them(sounds: Path, tmp_path: Path) -> None:
    made = calibration_set(MINIATURE_DIMS, BLIND, per_task=1, audio=sounds, folder=tmp_path)
    assert {c.request.prompt for c in made.cases if c.task == "T2A"} <= set(prompts.SOUNDS)  # type: ignore[union-attr]
