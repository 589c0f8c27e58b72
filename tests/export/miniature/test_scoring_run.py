"""A score run: right for the right model, chance for the wrong one, and says what it could not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from omni_rt import strict_json
from omni_rt.errors import BundleError, EngineError, RequestError
from omni_rt.export.miniature.data import (
    AUDIO_KINDS,
    KINDS,
    QUESTION_KINDS,
    Example,
    Wave,
)
from omni_rt.export.miniature.report import KindScores, ScoreReport, summarised
from omni_rt.export.miniature.scoring_run import (
    BATCH,
    Settings,
    check_model,
    chosen_kinds,
    score_kind,
)
from omni_rt.export.miniature.tasks import score_answer
from omni_rt.plans import make_plan
from tests.export.miniature.fake_model import (
    MINIATURE_DIMS,
    FakeModel,
    due,
    right_answer,
    silence,
)
from tests.export.miniature.results import target

pytest.importorskip("av")

SEED = 5


def settings(count: int = 6) -> Settings:
    return Settings(plan=make_plan("euler-2"), cfg_scale=1.0, count=count, seed=SEED)


def scores_of(kind: str, *, count: int = 6, **how: Any) -> KindScores:
    model = FakeModel(due([kind], count, seed=SEED), **how)
    return score_kind(model, kind, settings(count), lambda done, total: None)


def answers_of_the_next(kind: str, count: int) -> KindScores:
    """A model that makes and says what the next example wants."""
    following = due([kind], count + 1, seed=SEED)[1:]
    wanted = iter(following)

    def other(_: Example) -> Wave:
        return target(next(wanted))

    def another(_: Example) -> str:
        return right_answer(next(wanted))

    return scores_of(kind, count=count, maker=other, speaker=another)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_is_right_scores_so(kind: str) -> None:
    found = scores_of(kind)
    assert found.status == "scored"
    assert found.passed is not None
    assert found.passed.share.passed == 1
    assert all(check.each == "111111" for check in found.checks.values())
    assert found.passed.chance <= 0.5


def test_a_model_that_does_another_thing_scores_by_chance() -> None:
    count = 8
    found = [answers_of_the_next(kind, count).passed for kind in KINDS]
    passed = np.mean([check.share.passed for check in found if check])
    chances = np.array([check.chance for check in found if check])
    deviation = np.sqrt(np.sum(chances * (1 - chances)) / count) / len(KINDS)
    assert abs(passed - chances.mean()) <= 4 * deviation


@pytest.mark.parametrize("kind", ["note", "voice_speech", "remove", "style", "ask_kind"])
def test_silence_and_no_words_never_pass(kind: str) -> None:
    found = scores_of(kind, maker=silence, speaker=lambda _: "")
    assert found.passed is not None
    assert found.passed.each == "000000"


def test_shares_lie_in_their_intervals_and_are_of_the_digits() -> None:
    examples = due(["ask_count"], 40, seed=SEED)
    found = summarised("ask_count", [score_answer(e, "two") for e in examples], seconds=0.1)
    (check,) = found.checks.values()
    assert check == found.passed
    assert check.share.count == len(check.each) == 40
    assert check.share.passed == check.each.count("1") / 40
    assert 0 <= check.share.low < check.share.passed < check.share.high < 1
    assert check.chance == pytest.approx(1 / 6)


def test_what_is_measured_has_a_mean_and_a_median() -> None:
    loud = scores_of("remove", maker=lambda e: target(e) + np.float32(0.02) * _hiss())
    assert loud.measures["kept_db"].count == 6
    assert -3 < loud.measures["kept_db"].median < 0
    assert -60 <= loud.measures["residual_db"].mean < -15
    assert "kept" not in loud.measures


def _hiss() -> Wave:
    return np.random.RandomState(0).standard_normal(16_384).astype(np.float32)


@pytest.mark.parametrize("kind", ["chord", "voice_conversion", "add", "flashes"])
def test_every_model_is_asked_for_the_same_with_the_same_noise(kind: str) -> None:
    count = BATCH + 3
    one, two = (FakeModel(due([kind], count, seed=SEED), maker=silence) for _ in range(2))
    for model in (one, two):
        score_kind(model, kind, settings(count), lambda done, total: None)
    assert one.seeds == two.seeds == [SEED + i for i in range(count)]
    for a, b in zip(one.requests, two.requests, strict=True):
        assert a.user_text(_Templates()) == b.user_text(_Templates())
        assert a.spoken() == b.spoken()
        assert (a.clip() is None) == (b.clip() is None)
    fewer = FakeModel(due([kind], 3, seed=SEED), maker=silence)
    score_kind(fewer, kind, settings(3), lambda done, total: None)
    assert fewer.seeds == one.seeds[:3]


class _Templates(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "{desc}{source}{target}"


@pytest.mark.parametrize("kind", ["note", "ask_note"])
def test_progress_counts_examples_to_the_end(kind: str) -> None:
    told: list[tuple[int, int]] = []
    count = BATCH + 2
    model = FakeModel(due([kind], count, seed=SEED))
    score_kind(model, kind, settings(count), lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (count, count)


class _Lacking(FakeModel):
    def generate_batch(self, *_: Any, **__: Any) -> Any:
        raise BundleError("this bundle has no 'synchformer' stage (it has context)")


class _Broken(FakeModel):
    def generate_batch(self, *_: Any, **__: Any) -> Any:
        raise EngineError("NaN latents")


def test_a_stage_that_is_missing_is_named_and_a_breakdown_told() -> None:
    lacking = score_kind(_Lacking([]), "scene", settings(), lambda done, total: None)
    assert (lacking.status, lacking.passed, lacking.checks) == ("lacking", None, {})
    assert lacking.reason is not None
    assert "'synchformer'" in lacking.reason
    broken = score_kind(_Broken([]), "note", settings(), lambda done, total: None)
    assert (broken.status, broken.reason) == ("failed", "NaN latents")


def test_without_the_video_extra_only_videos_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for kind in KINDS:
        seen = due([kind], 1)[0].frames is not None
        if seen or kind in ("note", "ask_note"):
            found = scores_of(kind, count=1)
            assert found.status == ("lacking" if seen else "scored")
            assert ("omni_rt[video]" in (found.reason or "")) == seen


def test_what_cannot_be_scored_is_refused() -> None:
    check_model(MINIATURE_DIMS)
    with pytest.raises(RequestError, match=r"8000 Hz.*this bundle has 44100 Hz, 16384 samples"):
        check_model(replace(MINIATURE_DIMS, sample_rate_hz=44_100))
    with pytest.raises(RequestError, match=r"16384 samples; this bundle has 8000 Hz, 80000"):
        check_model(replace(MINIATURE_DIMS, clip_samples=80_000))
    with pytest.raises(RequestError, match="unknown kinds bird, fish: choose from note,"):
        chosen_kinds("note, bird,fish")
    with pytest.raises(RequestError, match="unknown kinds ' , '"):
        chosen_kinds(" , ")
    for count in (-1, 0, 10**11):
        with pytest.raises(RequestError, match=f"count must be 1 to 10000, got {count}"):
            settings(count)
    with pytest.raises(RequestError, match="seed must be"):
        Settings(plan=make_plan("euler-2"), cfg_scale=1.0, count=1, seed=-1)


def test_kinds_are_chosen_once_each_in_the_order_given() -> None:
    assert chosen_kinds(None) == (*AUDIO_KINDS, *QUESTION_KINDS)
    assert chosen_kinds("remove, note,remove") == ("remove", "note")


def test_a_report_survives_json() -> None:
    report = ScoreReport(
        bundle="id",
        name="name",
        plan="euler-2",
        cfg_scale=1.0,
        seed=SEED,
        count=6,
        kinds=(
            scores_of("flashes"),
            scores_of("ask_way"),
            score_kind(_Lacking([]), "scene", settings(), lambda done, total: None),
        ),
    )
    text = json.dumps(strict_json.to_json(report), allow_nan=False)
    assert strict_json.parse(ScoreReport, json.loads(text), where="scores") == report


def test_scoring_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnx_ir', 'onnxscript', 'safetensors', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "import omni_rt.export.miniature.tasks, omni_rt.export.miniature.demo\n"
        "import omni_rt.export.miniature.scoring_run\n"
        "from omni_rt.cli import main\n"
        "sys.argv = ['omni-rt', 'score', 'nowhere', '--kinds', 'note']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
