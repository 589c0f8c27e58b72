"""Clips fitted to the model's window, and cut from its result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.audio import Audio
from omni_rt.errors import RequestError
from omni_rt.preprocess.waveform import (
    MAX_SOURCE_S,
    channels_as,
    cross_fade,
    fitted,
    mono,
    read_clip,
    resampled,
    trim_silence,
)

RATE = 16_000


def counting(channels: int, samples: int) -> np.ndarray:
    return np.arange(channels * samples, dtype=np.float32).reshape(channels, samples)


@given(st.integers(0, 20), st.integers(0, 20), st.sampled_from([(), (2,), (1, 3)]))
def test_fitted_keeps_the_start_and_fills_with_zeros(
    have: int, want: int, lead: tuple[int, ...]
) -> None:
    samples = np.ones((*lead, have), np.float32)
    found = fitted(samples, want)
    assert found.shape == (*lead, want)
    kept = min(have, want)
    assert np.all(found[..., :kept] == 1)
    assert not found[..., kept:].any()


def test_mono_is_the_mean_of_the_channels() -> None:
    clip = Audio(np.array([[1.0, 2.0], [3.0, 6.0]]), RATE)
    assert np.array_equal(mono(clip, rate_hz=RATE), [2, 4])


@pytest.mark.parametrize("have", [1, 2, 5])
@pytest.mark.parametrize("want", [1, 2])
def test_other_channel_counts_get_the_mean_in_each(have: int, want: int) -> None:
    clip = Audio(counting(have, 7), RATE)
    found = channels_as(clip, channels=want, rate_hz=RATE)
    expected = clip.samples if have == want else np.tile(clip.samples.mean(axis=0), (want, 1))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("to_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("samples", [1_000, 1_601, 4_410])
def test_resampling_keeps_the_duration(to_hz: int, samples: int) -> None:
    found = resampled(counting(2, samples), from_hz=RATE, to_hz=to_hz)
    assert found.shape[0] == 2
    assert abs(found.shape[1] - samples * to_hz / RATE) <= 1
    assert found.dtype == np.float32
    assert found.flags.c_contiguous


def test_the_same_rate_changes_nothing() -> None:
    samples = counting(2, 9)
    assert resampled(samples, from_hz=RATE, to_hz=RATE) is samples


def test_resampling_keeps_a_tone() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)[None]
    found = resampled(tone, from_hz=RATE, to_hz=44_100)[0, 4410:-4410]
    expected = np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)[4410:-4410]
    assert np.abs(found - expected).max() < 1e-4  # soxr VHQ: far below 16 bits


def test_channels_are_resampled_independently() -> None:
    noise = np.random.default_rng(0).standard_normal((2, 4000)).astype(np.float32)
    both = resampled(noise, from_hz=RATE, to_hz=44_100)
    for i in range(2):
        alone = resampled(noise[i : i + 1], from_hz=RATE, to_hz=44_100)
        assert np.allclose(both[i], alone[0], atol=1e-6)


@given(st.integers(0, 6), st.integers(6, 12), st.integers(6, 12))
def test_a_cross_fade_shares_the_overlap(overlap: int, before: int, after: int) -> None:
    found = cross_fade(counting(2, before), counting(2, after), overlap=overlap)
    assert found.shape == (2, before + after - overlap)
    assert np.array_equal(found[:, : before - overlap], counting(2, before)[:, : before - overlap])
    assert np.array_equal(found[:, before:], counting(2, after)[:, overlap:])


def test_a_cross_fade_goes_from_one_clip_to_the_other_in_a_line() -> None:
    found = cross_fade(np.zeros((1, 5), np.float32), np.ones((1, 5), np.float32), overlap=5)
    assert np.allclose(found, [[0, 0.25, 0.5, 0.75, 1]])


@given(st.integers(0, 8))
def test_a_constant_signal_stays_constant_under_a_cross_fade(overlap: int) -> None:
    clip = np.full((2, 8), 0.75, np.float32)
    found = cross_fade(clip, clip, overlap=overlap)
    assert np.allclose(found, 0.75, atol=1e-7)


def noise_between(silence: int, loud: int, after: int) -> np.ndarray:
    noise = np.random.default_rng(1).uniform(-1, 1, loud).astype(np.float32)
    one = np.concatenate([np.zeros(silence), noise, np.zeros(after)]).astype(np.float32)
    return np.stack([one, one])


@pytest.mark.parametrize("silence", [0, 5_000, 20_000])
@pytest.mark.parametrize("after", [0, 5_000, 20_000])
def test_trimming_keeps_the_sound_and_little_else(silence: int, after: int) -> None:
    """At most half a frame and a hop of silence remain at each end; no sound is lost but 1/1000."""
    samples = noise_between(silence, 30_000, after)
    kept = trim_silence(samples, rate_hz=RATE)
    assert (kept**2).sum() >= 0.999 * (samples**2).sum()
    assert kept.shape[1] <= min(30_000 + 2 * (1024 + 512), samples.shape[1])


def test_trimmed_samples_are_a_slice_of_the_input() -> None:
    samples = noise_between(6_000, 9_000, 4_000)
    kept = trim_silence(samples, rate_hz=RATE)
    places = np.lib.stride_tricks.sliding_window_view(samples[0], kept.shape[1])
    assert (places == kept[0]).all(axis=1).any()


def test_trimming_twice_changes_nothing_more_than_a_frame() -> None:
    once = trim_silence(noise_between(6_000, 9_000, 4_000), rate_hz=RATE)
    twice = trim_silence(once, rate_hz=RATE)
    assert once.shape[1] - twice.shape[1] <= 2048


@pytest.mark.parametrize("samples", [0, 1, 100, 5_000])
def test_silence_is_returned_whole(samples: int) -> None:
    silence = np.zeros((2, samples), np.float32)
    assert np.array_equal(trim_silence(silence, rate_hz=RATE), silence)


def test_what_would_be_too_short_is_returned_whole() -> None:
    samples = noise_between(20_000, 10, 20_000)
    assert trim_silence(samples, rate_hz=RATE).shape == samples.shape


def test_trimming_does_not_depend_on_loudness() -> None:
    samples = noise_between(5_000, 9_000, 5_000)
    loud, faint = (trim_silence(s, rate_hz=RATE) for s in (samples, samples * np.float32(1e-3)))
    assert loud.shape == faint.shape


def test_a_clip_in_memory_is_itself() -> None:
    clip = Audio(counting(2, 4), RATE)
    assert read_clip(clip, what="source") is clip


@pytest.mark.parametrize("kind", [str, Path])
def test_a_clip_is_read_from_a_path(tmp_path: Path, kind: type) -> None:
    path = Audio(np.zeros((2, 40)), RATE).save(tmp_path / "clip.wav")
    assert read_clip(kind(path), what="source").samples.shape == (2, 40)


@pytest.mark.parametrize("given_", [None, 3, b"clip.wav", np.zeros((2, 4)), [0.0]])
def test_anything_else_is_no_clip(given_: Any) -> None:
    with pytest.raises(RequestError, match=r"voice must be a path or an omni_rt\.Audio"):
        read_clip(given_, what="voice")


def test_a_clip_without_samples_is_refused() -> None:
    with pytest.raises(RequestError, match="source holds no samples"):
        read_clip(Audio(np.zeros((2, 0)), RATE), what="source")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_clip_is_finite(bad: float) -> None:
    with pytest.raises(RequestError, match="source holds NaN or infinite"):
        read_clip(Audio(np.array([[0, bad]]), RATE), what="source")


def test_a_clip_lasts_ten_minutes_at_most(tmp_path: Path) -> None:
    longest = Audio(np.zeros((1, int(MAX_SOURCE_S) * 10)), 10)
    assert read_clip(longest, what="source") is longest
    longer = Audio(np.zeros((1, int(MAX_SOURCE_S) * 10 + 1)), 10)
    with pytest.raises(RequestError, match="at most 600 s"):
        read_clip(longer, what="source")
    with pytest.raises(RequestError, match="at most 600 s"):
        read_clip(longer.save(tmp_path / "long.wav"), what="source")
