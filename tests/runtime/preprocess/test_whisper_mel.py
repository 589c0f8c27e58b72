"""Log-mel features against Whisper's own extractor, and what the audio tower gets of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from omni_rt.errors import RequestError
from omni_rt.preprocess.whisper_mel import MAX_S, RATE_HZ, chunked, log_mel, token_count

# The same in fp64: two roundings of values up to 2. A frame more, or one less, is off by 0.1.
EXACT_TOLERANCE = 5e-7
# Spec THINKER §7, of the original in fp32, rms: where noise nearly cancels in a low band, single
# values of it are off by 1e-4 from the same in fp64.
TOLERANCE = 5e-5
EXTRACTOR = WhisperFeatureExtractor(feature_size=128, chunk_length=MAX_S)


def noise(samples: int, *, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def original(waveform: np.ndarray) -> np.ndarray:
    found = EXTRACTOR(
        waveform, sampling_rate=RATE_HZ, return_attention_mask=True, return_tensors="np"
    )
    return found["input_features"][0][:, found["attention_mask"][0] == 1]


def exact(waveform: np.ndarray) -> np.ndarray:
    """By the extractor's fp64 path; a second of zeros stands for what is missing to 300 s."""
    heard = waveform[: MAX_S * RATE_HZ]
    padded = np.zeros((1, min(len(heard) + RATE_HZ, MAX_S * RATE_HZ)), np.float32)
    padded[0, : len(heard)] = heard
    features = EXTRACTOR._np_extract_fbank_features(padded, "cpu")[0]
    return features[:, : -(-len(heard) // 160)]


def check(waveform: np.ndarray) -> None:
    found, expected = log_mel(waveform), original(waveform)
    assert found.dtype == np.float32
    assert found.shape == expected.shape == (128, -(-min(len(waveform), 4_800_000) // 160))
    assert np.abs(found - exact(waveform)).max() <= EXACT_TOLERANCE
    assert np.sqrt(np.mean((found - expected) ** 2)) <= TOLERANCE


@pytest.mark.parametrize(
    "samples", [1, 2, 159, 160, 161, 199, 200, 201, 320, 321, 480, 37 * 160, 200 * 160, 201 * 160]
)
def test_short_clips_are_as_whispers(samples: int) -> None:
    check(noise(samples))


@pytest.mark.slow
@pytest.mark.parametrize("samples", [4_799_990, 4_800_000, 4_800_321])
def test_clips_of_five_minutes_and_more_are_as_whispers(samples: int) -> None:
    check(noise(samples))


def test_a_tone_is_as_whispers() -> None:
    check((0.9 * np.sin(np.arange(10 * RATE_HZ) * (2 * np.pi * 50 / RATE_HZ))).astype(np.float32))


def test_the_floor_counts_from_the_loudest_frame_even_one_behind_the_clip() -> None:
    """The last samples are loudest in the frame after the last: its maximum sets the floor."""
    quiet = noise(1600, level=1e-6)
    quiet[-3:] = 1
    check(quiet)
    loudest = log_mel(quiet).max()
    assert log_mel(quiet).min() > loudest - 2 + 0.05  # the floor lies higher than 8 decades below


def test_silence_is_the_floor() -> None:
    check(np.zeros(500, np.float32))
    assert np.all(log_mel(np.zeros(500, np.float32)) == -1.5)


def test_what_follows_five_minutes_is_not_heard() -> None:
    long = np.zeros((2 * MAX_S * RATE_HZ,), np.float32)
    long[MAX_S * RATE_HZ :] = 1
    found = log_mel(long, bands=2)
    assert found.shape == (2, MAX_S * 100)
    assert np.all(found == -1.5)


@pytest.mark.parametrize("shape", [(0,), (1, 160), ()])
def test_no_samples_or_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="recording"):
        log_mel(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("frames", "tokens"),
    [(1, 0), (2, 0), (3, 1), (4, 1), (6, 1), (7, 2), (37, 9), (200, 50), (201, 50), (203, 51)],
)
def test_tokens_are_pairs_of_pairs(frames: int, tokens: int) -> None:
    assert token_count(frames) == tokens


@given(st.integers(1, 100_000))
def test_token_counts_are_the_originals_and_lie_in_the_rows_of_the_chunks(frames: int) -> None:
    assert token_count(frames) == ((frames - 1) // 2 + 1 - 2) // 2 + 1
    chunks = -(-frames // 200)
    assert 50 * (chunks - 1) <= token_count(frames) <= 50 * chunks


@given(st.integers(1, 30), st.integers(1, 12))
def test_chunks_joined_are_the_mel_and_the_rest_is_zero(length: int, frames: int) -> None:
    mel = np.arange(1, 2 * length + 1, dtype=np.float32).reshape(2, length)
    found, lengths = chunked(mel, frames=frames)
    assert found.shape == (-(-length // frames), 2, frames)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert lengths.dtype == np.int64
    assert np.all(lengths[:-1] == frames)
    kept = [chunk[:, :count] for chunk, count in zip(found, lengths, strict=True)]
    assert np.array_equal(np.concatenate(kept, axis=1), mel)
    assert not any(chunk[:, n:].any() for chunk, n in zip(found, lengths, strict=True))


@pytest.mark.parametrize("frames", [1, 2, 3, 37, 200, 201])
def test_padding_of_the_last_chunk_is_not_the_log_floor(frames: int) -> None:
    mel = log_mel(noise(160 * frames))
    found, lengths = chunked(mel)
    assert found.shape == ((frames + 199) // 200, 128, 200)
    assert lengths.tolist() == [200] * (frames // 200) + [frames % 200] * (frames % 200 > 0)
    silence = log_mel(np.concatenate([noise(160 * frames), np.zeros(160, np.float32)]))
    assert silence.min() != 0
    assert not found[-1, :, lengths[-1] :].any()
