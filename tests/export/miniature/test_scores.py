"""Scores: right on true audio, forgiving of a codec's faults, at chance on wrong audio."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from omni_rt.errors import RequestError
from omni_rt.export.miniature.data import (
    AUDIO_KINDS,
    QUESTION_KINDS,
    RATE_HZ,
    WINDOW_SAMPLES,
    draw,
)
from omni_rt.export.miniature.data.example import Reply
from omni_rt.export.miniature.tasks import score, score_answer, score_truth
from tests.export.miniature.results import (
    degraded,
    examples,
    share_passed,
    stream,
    target,
    white,
)

QUICK = 40
SLOW = 400
_SIZES = [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)]


def _at_least(n: int, share: float) -> float:
    """The least that a score of this share shows on n examples (0.1 % of the time less)."""
    return share - 3 * np.sqrt(share * (1 - share) / n) if n < SLOW else share


@pytest.mark.parametrize("n", _SIZES)
@pytest.mark.parametrize("kind", AUDIO_KINDS)
def test_true_audio_passes(kind: str, n: int) -> None:
    found = examples(kind, n)
    assert share_passed([(e, target(e)) for e in found]) >= _at_least(n, 0.99)


@pytest.mark.parametrize("n", _SIZES)
@pytest.mark.parametrize("kind", AUDIO_KINDS)
def test_true_audio_with_noise_shift_gain_and_low_pass_passes(kind: str, n: int) -> None:
    found, drawn = examples(kind, n), stream(31)
    assert share_passed([(e, degraded(target(e), drawn)) for e in found]) >= _at_least(n, 0.95)


@pytest.mark.parametrize("n", _SIZES)
@pytest.mark.parametrize("kind", AUDIO_KINDS)
def test_the_target_of_another_example_passes_by_chance_only(kind: str, n: int) -> None:
    found = examples(kind, n)
    others = [target(e) for e in (*found[1:], found[0])]
    pairs = list(zip(found, others, strict=True))
    chance = float(np.mean([score(e, target(e), RATE_HZ).chance for e in found]))
    assert 0 < chance <= 0.5
    deviation = np.sqrt(chance * (1 - chance) / n)
    assert abs(share_passed(pairs) - chance) <= 4 * deviation + 0.03


@pytest.mark.parametrize("kind", AUDIO_KINDS)
def test_silence_and_broken_audio_never_pass(kind: str) -> None:
    for example in examples(kind, 10):
        for empty in (np.zeros(16_384), np.full(16_384, np.nan), np.zeros((2, WINDOW_SAMPLES))):
            assert not score(example, empty.astype(np.float32), RATE_HZ).passed


@pytest.mark.parametrize("kind", [kind for kind in AUDIO_KINDS if kind != "noise"])
def test_white_noise_does_not_pass(kind: str) -> None:
    drawn = stream(12)
    assert share_passed([(e, white(drawn)) for e in examples(kind, QUICK)]) <= 0.03


@pytest.mark.parametrize("kind", ["add", "remove", "extract", "style"])
def test_giving_the_source_back_does_not_pass(kind: str) -> None:
    for example in examples(kind, QUICK):
        assert example.source is not None
        assert not score(example, example.source, RATE_HZ).passed


@pytest.mark.parametrize("kind", AUDIO_KINDS)
def test_stereo_gain_and_a_clip_of_two_seconds_change_nothing(kind: str) -> None:
    for example in examples(kind, 5):
        wave = target(example)
        stereo = np.stack([wave, wave])[:, :WINDOW_SAMPLES] * np.float32(0.01)
        assert score(example, stereo, RATE_HZ).passed


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_answers_count_by_their_words(kind: str) -> None:
    found = examples(kind, 100)
    for example, other in zip(found, (*found[1:], found[0]), strict=True):
        assert example.answer is not None
        assert score_answer(example, f" {example.answer.upper()}. ").passed
        assert not score_answer(example, "").passed
        right = score_answer(example, other.answer or "").passed
        assert right == (other.answer == example.answer)
    luck = np.mean([a.answer == b.answer for a, b in pairwise(found)])
    chance = np.mean([score_answer(e, "").chance for e in found])
    assert luck <= chance + 4 * np.sqrt(chance * (1 - chance) / len(found)) + 0.01


@pytest.mark.parametrize(
    "kind", [k for k in QUESTION_KINDS if k not in ("ask_colour", "ask_flashes")]
)
def test_what_a_question_is_about_is_heard(kind: str) -> None:
    for example in examples(kind, 15):
        assert isinstance(example.truth, Reply)
        assert example.audio is not None
        assert score_truth(example.truth.about, example.audio, RATE_HZ).passed


def test_what_cannot_be_scored_is_refused() -> None:
    note, question = draw("note", stream(1)), draw("ask_note", stream(1))
    with pytest.raises(RequestError, match="8000 Hz, got 16000 Hz"):
        score(note, target(note), 16_000)
    with pytest.raises(RequestError, match=r"\[samples\] or \[channels, samples\]"):
        score(note, np.zeros((1, 2, 3), np.float32), RATE_HZ)
    with pytest.raises(RequestError, match="use score_answer"):
        score(question, target(note), RATE_HZ)
    with pytest.raises(RequestError, match="scored by its sound"):
        score_answer(note, "c")
