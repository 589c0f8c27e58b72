"""Words of a transcript, what changed in them, and when they are spoken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from omni_rt.errors import RequestError
from omni_rt.preprocess.waveform import Mono
from omni_rt.preprocess.word_timing import (
    WordTime,
    joined,
    pause_weight,
    plain,
    timed,
    weight,
    words,
)

TEXT = (
    "The old clock in the hall, which nobody had wound for years, began to tick again. "
    "Everybody stopped talking; then somebody laughed. It was only the mouse, they said."
)

SECONDS_PER_WEIGHT = 0.12


def babble(
    spoken: Sequence[str],
    *,
    rate_hz: int,
    jitter: float = 0.0,
    pauses: Mapping[int, float] | None = None,
    seed: int = 0,
) -> tuple[Mono, list[WordTime]]:
    """Bursts of noise as long as the words' weights, with short dips between them.

    Half a second of silence around all, pauses behind punctuation and where `pauses` says so.
    """
    rng = np.random.default_rng(seed)
    lengths = [weight(w) * SECONDS_PER_WEIGHT * rng.uniform(1 - jitter, 1 + jitter) for w in spoken]
    times, at = [], 0.5
    for i, (word, length) in enumerate(zip(spoken, lengths, strict=True)):
        times.append(WordTime(at, at + length))
        at += length + (pauses or {}).get(i, 0.15 * pause_weight(word))
    now = np.arange(round((times[-1].stop_s + 0.5) * rate_hz)) / rate_hz
    envelope = np.zeros(len(now))
    for time in times:
        edge = np.minimum(now - time.start_s, time.stop_s - now) / 0.02
        envelope += np.clip(edge, 0.0, 1.0)
    out = 0.2 * envelope * rng.standard_normal(len(now))
    return np.clip(out, -1.0, 1.0).astype(np.float32), times


# Words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Hello, world!", ("Hello,", "world!")),
        ("it's  five\no'clock", ("it's", "five", "o'clock")),
        ("well — no", ("well —", "no")),
        ("( yes ) «oui»", ("(yes )", "«oui»")),
        ("你好，世界。", ("你", "好，", "世", "界。")),
        ("他说：“好”", ("他", "说：", "“好”")),
        ("用hello说", ("用", "hello", "说")),
        ("きゃっと「タワー」", ("きゃ", "っ", "と", "「タ", "ワー」")),
        ("안녕하세요 여러분", ("안녕하세요", "여러분")),
        ("... — !", ()),
        ("", ()),
    ],
)
def test_words_keep_their_punctuation(text: str, found: tuple[str, ...]) -> None:
    assert words(text) == found


@given(st.text(max_size=40))
def test_every_word_says_something_and_no_letter_is_lost(text: str) -> None:
    found = words(text)
    assert all(plain(word) for word in found)
    assert "".join(map(plain, found)) == plain(text)
    assert plain(joined(found)) == plain(text)


@pytest.mark.parametrize("text", ["Hello, world!", "你好，世界。", "用hello说", "안녕 여러분", ""])
def test_joined_words_are_the_text(text: str) -> None:
    assert joined(words(text)) == text


# Weights


def test_longer_words_weigh_more() -> None:
    ordered = ["a", "cat", "table", "remember", "unforgettable"]
    weights = [weight(word) for word in ordered]
    assert weights == sorted(weights)
    assert weight("Remember,") == weight("remember")
    assert weight("naïve") == weight("naive")
    assert weight("42") == 2 * weight("4") == 5.0
    assert weight("界。") == weight("타") == 1.7
    assert weight("Москва") > weight("да")


@given(st.text(min_size=1, max_size=20).filter(lambda text: bool(plain(text))))
def test_every_word_takes_time(text: str) -> None:
    assert weight(text) >= 1.0


@pytest.mark.parametrize(
    ("word", "pause"),
    [("end.", 3.0), ('"end."', 3.0), ("really?!", 3.0), ("so,", 1.5), ("so", 0.0), ("好，", 1.5)],
)
def test_pauses_are_expected_at_punctuation(word: str, pause: float) -> None:
    assert pause_weight(word) == pause


# Timing


def worst_s(found: list[WordTime], real: list[WordTime]) -> float:
    return max(
        max(abs(a.start_s - b.start_s), abs(a.stop_s - b.stop_s))
        for a, b in zip(found, real, strict=True)
    )


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100, 48_000])
def test_words_are_found_where_they_are_spoken(rate_hz: int) -> None:
    speech, real = babble(words(TEXT), rate_hz=rate_hz)
    assert worst_s(timed(words(TEXT), speech, rate_hz=rate_hz), real) < 0.06


@pytest.mark.parametrize("jitter", [0.1, 0.2])
def test_words_of_uneven_length_are_found_by_the_dips_between_them(jitter: float) -> None:
    for seed in range(5):
        speech, real = babble(words(TEXT), rate_hz=16_000, jitter=jitter, seed=seed)
        assert worst_s(timed(words(TEXT), speech, rate_hz=16_000), real) < 0.06


def test_hesitations_do_not_shift_the_words_behind_them() -> None:
    spoken = words(TEXT)
    speech, real = babble(spoken, rate_hz=16_000, pauses={3: 1.0, 14: 0.7})
    assert worst_s(timed(spoken, speech, rate_hz=16_000), real) < 0.06


def test_background_noise_costs_little() -> None:
    speech, real = babble(words(TEXT), rate_hz=16_000)
    noise = np.random.default_rng(1).standard_normal(len(speech)).astype(np.float32)
    noisy = speech + noise * np.float32(0.005) + np.float32(0.1)  # and an offset
    assert worst_s(timed(words(TEXT), noisy, rate_hz=16_000), real) < 0.1


def test_a_breath_gets_no_word() -> None:
    spoken = words(TEXT)
    speech, real = babble(spoken, rate_hz=16_000)
    breath = np.random.default_rng(2).standard_normal(1600).astype(np.float32) * 0.05
    quiet = np.zeros(8000, np.float32)
    found = timed(spoken, np.concatenate([quiet, breath, quiet, speech]), rate_hz=16_000)
    shifted = [WordTime(t.start_s + 1.1, t.stop_s + 1.1) for t in real]
    assert worst_s(found, shifted) < 0.06


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(2000, 48_000))
@example(0, 2, 40_480)  # 253 hops of 10 ms: 253 * 0.01 is more than 2.53
def test_words_follow_each_other_within_the_recording(seed: int, count: int, samples: int) -> None:
    rng = np.random.default_rng(seed)
    speech = rng.standard_normal(samples) * np.repeat(rng.random(-(-samples // 500)), 500)[:samples]
    try:
        found = timed(["word"] * count, speech.astype(np.float32), rate_hz=16_000)
    except RequestError as error:
        assert "are they its words" in str(error)  # noqa: PT017  either outcome is right
        return
    assert len(found) == count
    edges = [edge for time in found for edge in (time.start_s, time.stop_s)]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= samples / 16_000


@pytest.mark.parametrize("samples", [0, 1, 100, 16_000])
def test_silence_holds_no_speech(samples: int) -> None:
    with pytest.raises(RequestError, match="no speech"):
        timed(["word"], np.zeros(samples, np.float32), rate_hz=16_000)


@pytest.mark.parametrize("count", [1, 500])
def test_a_transcript_of_another_recording_is_noticed(count: int) -> None:
    speech, _ = babble(words(TEXT), rate_hz=16_000)
    with pytest.raises(RequestError, match=f"has {count} words.*are they its words"):
        timed(["word"] * count, speech, rate_hz=16_000)
