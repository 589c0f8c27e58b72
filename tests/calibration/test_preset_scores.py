"""Scores of presets: paired, kept kind by kind, and what another seed changes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from omni_rt.bundle import Bundle
from omni_rt.calibration import preset_scores
from omni_rt.calibration.preset_scores import Scorer, audio_kinds, mean_drops, seed_points
from omni_rt.errors import ExportError, RequestError
from omni_rt.export.miniature.data import AUDIO_KINDS
from omni_rt.export.miniature.report import KindScores, not_scored
from omni_rt.export.miniature.scoring_run import Settings
from omni_rt.plans import make_plan
from tests.calibration.test_behaviour import report
from tests.runtime.tiny_bundle import write_tiny_bundle

SETTINGS = Settings(plan=make_plan("euler-2"), cfg_scale=7.0, count=4, seed=1)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was scored anew; `clicks` breaks down, `v2a_clicks` cannot be."""
    seen: list[str] = []

    def scored(_: Any, kind: str, settings: Settings, __: Any) -> KindScores:
        seen.append(f"{kind} {settings.first_noise}")
        if kind == "v2a_clicks":
            return not_scored(kind, "lacking", "no video")
        if kind == "clicks":
            return not_scored(kind, "failed", "it broke")
        return report("a", "1110", count=settings.count).kinds[0]

    monkeypatch.setattr(preset_scores, "score_kind", scored)
    return seen


def scorer(folder: Path, *kinds: str) -> Scorer:
    if not (folder / "tiny").exists():
        write_tiny_bundle(folder / "tiny")
    bundle = Bundle.open(folder / "tiny")
    return Scorer(
        session=SimpleNamespace(bundle=bundle),  # type: ignore[arg-type]
        kinds=kinds,
        engine="onnxruntime",
        kept=folder / "kept",
        progress=lambda _: None,
    )


def test_what_was_scored_is_not_scored_again_unless_anything_differs(
    tmp_path: Path, asked: list[str]
) -> None:
    own = scorer(tmp_path, "note", "chord")
    first = own.scored(SETTINGS)
    assert own.scored(SETTINGS).kinds == first.kinds
    assert asked == ["note 1", "chord 1"]
    own.scored(Settings(plan=SETTINGS.plan, cfg_scale=7.0, count=4, seed=1, noise=9))
    own.scored(Settings(plan=make_plan("ab2-2"), cfg_scale=7.0, count=4, seed=1))
    assert len(asked) == 6


def test_a_kind_that_breaks_down_is_named_and_what_was_done_stays(
    tmp_path: Path, asked: list[str]
) -> None:
    with pytest.raises(ExportError, match="euler-2, clicks: it broke"):
        scorer(tmp_path, "note", "clicks").scored(SETTINGS)
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.name.startswith("euler-2-note-")
    kept.write_text("{}")
    with pytest.raises(ExportError, match="holds no scores, remove it"):
        scorer(tmp_path, "note").scored(SETTINGS)


def test_what_could_not_be_scored_here_is_tried_again(tmp_path: Path, asked: list[str]) -> None:
    """A library may be there the next time."""
    own = scorer(tmp_path, "v2a_clicks", "note")
    for _ in range(2):
        assert [k.status for k in own.scored(SETTINGS).kinds] == ["lacking", "scored"]
    assert asked == ["v2a_clicks 1", "note 1", "v2a_clicks 1"]


def test_scores_need_a_folder(tmp_path: Path, asked: list[str]) -> None:
    (tmp_path / "kept").write_text("")
    with pytest.raises(ExportError, match=r"cannot keep scores in .*kept"):
        scorer(tmp_path, "note").scored(SETTINGS)
    assert asked == []


def test_drops_are_paired_and_seeds_differ_by_the_larger_direction() -> None:
    right, fewer = report("a", "1111"), report("a", "1110")
    assert mean_drops(right, fewer) == {"note": 25.0}
    assert mean_drops(fewer, right) == {"note": -25.0}
    there, back = seed_points(right, fewer), seed_points(fewer, right)
    assert there == back
    assert 25 < there["note"] < 30
    assert seed_points(right, right) == {"note": 0.0}


def test_questions_depend_on_no_plan() -> None:
    assert audio_kinds(None) == tuple(k for k in AUDIO_KINDS)
    assert audio_kinds("note, ask_words") == ("note",)
    with pytest.raises(RequestError, match="unknown kinds"):
        audio_kinds("toaster")
    with pytest.raises(RequestError, match=r"ask_words are questions, .* choose from note"):
        audio_kinds("ask_words")
