"""Laws of the distances between sounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_rt.audio_metrics import (
    log_mel_cosine,
    log_spectral_distance_db,
    multi_resolution_stft,
    sound_difference,
)
from omni_rt.preprocess.whisper_mel import bands_below, log_mel
from omni_rt.spectrum import power_spectrogram

RATE = 8000
Clip = NDArray[np.float32]
Measure = Callable[..., float]

# Each measure, and how far it is from "equal".
MEASURES: tuple[tuple[Measure, Callable[[float], float]], ...] = (
    (log_spectral_distance_db, lambda found: found),
    (multi_resolution_stft, lambda found: found),
    (log_mel_cosine, lambda found: 1 - found),
)
SYMMETRIC = (log_spectral_distance_db, log_mel_cosine)


def noise(seed: int, *, size: float = 0.3, samples: int = RATE) -> Clip:
    return (size * np.random.RandomState(seed).standard_normal((2, samples))).astype(np.float32)


def melody() -> Clip:
    time_s = np.arange(RATE) / RATE
    hz = np.where(time_s < 0.5, 440, 660)
    wave = 0.4 * np.sin(2 * np.pi * hz * time_s) * np.exp(-3 * (time_s % 0.5))
    return np.stack([wave, 0.5 * wave]).astype(np.float32)


@pytest.mark.parametrize(("measure", "away"), MEASURES)
@pytest.mark.parametrize("clip", [noise(1), melody(), np.zeros((1, 500), np.float32)])
def test_equal_clips_are_not_apart(
    measure: Measure, away: Callable[[float], float], clip: Clip
) -> None:
    assert away(measure(clip, clip, rate_hz=RATE)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("measure", SYMMETRIC)
def test_it_does_not_matter_which_is_the_reference(measure: Measure) -> None:
    for a, b in ((noise(1), noise(2)), (melody(), noise(1)), (melody(), 0 * melody())):
        assert measure(a, b, rate_hz=RATE) == pytest.approx(measure(b, a, rate_hz=RATE))


@pytest.mark.parametrize("gain_db", [-20.0, -3.0, 0.5, 12.0])
@pytest.mark.parametrize("rate_hz", [8000, 44_100])
def test_a_gain_is_its_own_log_spectral_distance(gain_db: float, rate_hz: int) -> None:
    louder = noise(1) * np.float32(10 ** (gain_db / 20))
    found = log_spectral_distance_db(louder, noise(1), rate_hz=rate_hz)
    assert found == pytest.approx(abs(gain_db), rel=1e-4)


@pytest.mark.parametrize("gain_db", [-6.0, 6.0])
def test_a_gain_is_a_known_stft_distance(gain_db: float) -> None:
    factor = 10 ** (gain_db / 20)
    found = multi_resolution_stft(noise(1) * np.float32(factor), noise(1), rate_hz=RATE)
    assert found == pytest.approx(abs(factor - 1) + abs(np.log(factor)), rel=1e-4)


def test_the_mel_cosine_hears_no_gain() -> None:
    found = log_mel_cosine(melody() * np.float32(0.1), melody(), rate_hz=RATE)
    assert found == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("measure", "away"), MEASURES)
@pytest.mark.parametrize("clip", [noise(1), melody()])
def test_more_noise_is_further_away(
    measure: Measure, away: Callable[[float], float], clip: Clip
) -> None:
    sizes = np.geomspace(1e-3, 1, 7, dtype=np.float32)
    apart = [away(measure(clip + size * noise(9), clip, rate_hz=RATE)) for size in sizes]
    assert apart[0] > 0
    assert (np.diff(apart) > 0).all()


@pytest.mark.parametrize("measure", [measure for measure, _ in MEASURES])
def test_silence_is_far_but_finite(measure: Measure) -> None:
    silent = np.zeros_like(melody())
    for a, b in ((silent, melody()), (melody(), silent)):
        assert np.isfinite(measure(a, b, rate_hz=RATE))
    assert log_mel_cosine(silent, melody(), rate_hz=RATE) == 0
    assert log_spectral_distance_db(silent, melody(), rate_hz=RATE) > 10


def test_what_is_rounded_to_16_bits_is_not_apart() -> None:
    clip = np.float32(1e-3) * melody()
    rounded = (np.rint(clip * 32768) / 32768).astype(np.float32)
    assert log_spectral_distance_db(rounded, clip, rate_hz=RATE) < 0.5


def test_bands_beyond_the_rate_say_nothing() -> None:
    """At 8 kHz the upper half of the mel bands is empty: it would make any two clips alike."""
    assert abs(log_mel_cosine(noise(1), noise(2), rate_hz=RATE)) < 0.4


@pytest.mark.parametrize("measure", [measure for measure, _ in MEASURES])
def test_clips_that_cannot_be_compared_are_refused(measure: Measure) -> None:
    broken = noise(1)
    broken[1, 5] = np.nan
    for a, b in (
        (noise(1), noise(1, samples=RATE - 1)),
        (noise(1), noise(1)[:1]),
        (noise(1)[0], noise(1)[0]),
        (noise(1)[:, :0], noise(1)[:, :0]),
        (broken, noise(1)),
        (noise(1), broken),
    ):
        with pytest.raises(ValueError, match="clips"):
            measure(a, b, rate_hz=RATE)


@pytest.mark.parametrize("samples", [1, 7, 100])
@pytest.mark.parametrize("rate_hz", [1000, 44_100, 192_000])
def test_short_clips_and_other_rates_work(samples: int, rate_hz: int) -> None:
    found = sound_difference(noise(1, samples=samples), noise(2, samples=samples), rate_hz=rate_hz)
    assert all(np.isfinite([found.lsd_db, found.stft, found.log_mel_cosine]))
    assert found.lsd_db > 0


def test_channels_count_alike() -> None:
    one, other = noise(1)[:1], noise(2)[:1]
    both = log_spectral_distance_db(
        np.concatenate([one, one]), np.concatenate([one, other]), rate_hz=RATE
    )
    assert both == pytest.approx(log_spectral_distance_db(one, other, rate_hz=RATE) / 2)


@pytest.mark.parametrize("window", [64, 63, 256])
def test_a_full_scale_sine_has_power_one(window: int) -> None:
    samples = np.sin(2 * np.pi * 8 * np.arange(2000) / window)
    power = power_spectrogram(samples, window=window, hop=window // 4)
    assert power.shape == (1 + 2000 // (window // 4), window // 2 + 1)
    assert power[8].argmax() == 8
    assert power[8].max() == pytest.approx(1, rel=1e-3)


def test_long_clips_are_transformed_in_blocks() -> None:
    """Frames do not depend on the block that they are in."""
    samples = noise(3, samples=9000)[0]
    whole = power_spectrogram(samples, window=16, hop=2)
    assert np.array_equal(
        whole[2500:3000], power_spectrogram(samples[4000:7000], window=16, hop=2)[500:1000]
    )


@pytest.mark.parametrize("hz", [50, 500, 4000, 7999])
def test_bands_below_a_frequency_are_silent_above_it(hz: int) -> None:
    time_s = np.arange(16_000) / 16_000
    tone = np.sin(2 * np.pi * min(hz + 500, 7950) * time_s).astype(np.float32)
    count = bands_below(hz)
    levels = log_mel(tone)[:, 20:80]
    assert 1 <= count <= 128
    assert count == 128 or levels[count:].max() > levels[:count].max()
