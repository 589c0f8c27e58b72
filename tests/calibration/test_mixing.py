"""Laws of stretching, shifting and mixing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from omni_rt.calibration.mixing import (
    KINDS,
    SEMITONES,
    SNR_DB,
    Wave,
    draw_mixture,
    measured_snr_db,
    mixed,
    pitch_shifted,
    procedural,
    sounding,
    stretched,
)
from omni_rt.errors import ExportError

RATE_HZ = 16_000
SECOND = np.arange(RATE_HZ) / RATE_HZ


def sine(hz: float, *, seconds: float = 1.0, level: float = 0.5) -> Wave:
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)


def loudest_hz(wave: Wave) -> float:
    """Of the middle half, to 0.06 Hz."""
    middle = wave[len(wave) // 4 : -len(wave) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 18))
    return float(spectrum.argmax() * RATE_HZ / (1 << 18))


def noise(seed: int, samples: int = RATE_HZ) -> Wave:
    return np.clip(np.random.RandomState(seed).standard_normal(samples) * 0.2, -1, 1)


@pytest.mark.parametrize("samples", [1, 7, 100, 12_345])
@pytest.mark.parametrize("factor", [0.25, 0.8, 0.93, 1.0, 1.2, 4.0])
def test_a_stretch_makes_the_length_by_its_factor(samples: int, factor: float) -> None:
    out = stretched(noise(0, samples), factor, rate_hz=RATE_HZ)
    assert out.shape == (max(1, round(samples * factor)),)
    assert np.isfinite(out).all()


def test_a_stretch_by_one_changes_nothing() -> None:
    wave = noise(1)
    assert np.abs(stretched(wave, 1.0, rate_hz=RATE_HZ) - wave).max() < 1e-12


@pytest.mark.parametrize("factor", [0.8, 0.93, 1.2])
def test_a_stretch_keeps_pitch_and_level(factor: float) -> None:
    out = stretched(sine(700), factor, rate_hz=RATE_HZ)
    middle = out[len(out) // 4 : -len(out) // 4]
    assert loudest_hz(out) == pytest.approx(700, abs=0.2)
    assert np.sqrt(2) * np.std(middle) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_stretch_moves_what_happens_in_proportion(factor: float) -> None:
    burst = sine(900) * np.exp(-(((SECOND - 0.6) / 0.03) ** 2))
    power = stretched(burst, factor, rate_hz=RATE_HZ) ** 2
    centre_s = (power * np.arange(len(power))).sum() / power.sum() / RATE_HZ
    assert centre_s == pytest.approx(0.6 * factor, abs=0.0116)  # a hop: frames tell no more


@pytest.mark.parametrize("semitones", [-3.0, -1.5, 0.0, 2.0, 3.0])
@pytest.mark.parametrize("stretch", [0.8, 1.0, 1.2])
def test_a_shift_moves_the_pitch_by_its_ratio_alone(semitones: float, stretch: float) -> None:
    out = pitch_shifted(sine(700), semitones, rate_hz=RATE_HZ, stretch=stretch)
    assert len(out) == round(RATE_HZ * stretch)
    assert loudest_hz(out) / 700 == pytest.approx(2 ** (semitones / 12), abs=5e-4)


def test_the_snr_is_the_one_asked_for_where_both_sound() -> None:
    """The first lasts 1 s; the second sounds from 0.5 s to 1.5 s: together they do for 0.5 s."""
    mix = mixed(
        sine(300, level=0.3),
        sine(1100, level=0.05),
        snr_db=2.5,
        onset_samples=RATE_HZ // 2,
        samples=2 * RATE_HZ,
        rate_hz=RATE_HZ,
    )
    together = slice(RATE_HZ // 2, RATE_HZ)
    powers = [np.mean(stem[together] ** 2) for stem in (mix.first, mix.second)]
    assert 10 * np.log10(powers[0] / powers[1]) == pytest.approx(2.5, abs=1e-6)
    assert not mix.second[: RATE_HZ // 2].any()
    assert np.allclose(mix.both, mix.first + mix.second, rtol=0, atol=1e-15)


def test_pauses_do_not_count_for_the_snr() -> None:
    gaps = (np.arange(RATE_HZ) % 3200 < 1600).astype(float)  # ten blocks of 10 ms each
    whole, gated = noise(3), noise(4) * gaps
    powers = [np.mean(wave[gaps > 0] ** 2) for wave in (whole, gated)]
    measured = measured_snr_db(whole, gated, rate_hz=RATE_HZ)
    assert measured == pytest.approx(10 * np.log10(powers[0] / powers[1]), abs=1e-9)
    assert np.array_equal(sounding(gated, rate_hz=RATE_HZ), gaps > 0)


def test_sounds_that_take_turns_are_measured_each_by_itself() -> None:
    early, late = sine(300, level=0.4), sine(300, level=0.1)
    early[RATE_HZ // 2 :] = 0
    late[: RATE_HZ // 2] = 0
    assert measured_snr_db(early, late, rate_hz=RATE_HZ) == pytest.approx(20 * np.log10(4))


@pytest.mark.parametrize("level", [0.01, 1.0, 30.0])
def test_nothing_clips_and_the_snr_stays(level: float) -> None:
    mix = mixed(
        level * noise(5),
        noise(6),
        snr_db=1.0,
        onset_samples=0,
        samples=RATE_HZ,
        rate_hz=RATE_HZ,
    )
    assert max(np.abs(wave).max() for wave in (mix.first, mix.second, mix.both)) <= 1.0
    assert measured_snr_db(mix.first, mix.second, rate_hz=RATE_HZ) == pytest.approx(1.0)
    if level < 0.1:  # what does not exceed 1 keeps its level
        assert np.array_equal(mix.first, level * noise(5))


def test_drawn_mixtures_have_the_papers_ranges() -> None:
    drawn = [
        draw_mixture(
            sine(500), sine(1500), np.random.RandomState(s), samples=RATE_HZ, rate_hz=RATE_HZ
        )
        for s in range(30)
    ]
    for mix in drawn:
        assert SNR_DB[0] <= mix.snr_db <= SNR_DB[1]
        measured = measured_snr_db(mix.first, mix.second, rate_hz=RATE_HZ)
        assert measured == pytest.approx(mix.snr_db, abs=1e-6)
        assert not mix.second[: mix.onset_samples].any()
        semitones = 12 * np.log2(loudest_hz(mix.first) / 500)
        assert SEMITONES[0] - 0.05 <= semitones <= SEMITONES[1] + 0.05
    assert np.ptp([mix.snr_db for mix in drawn]) > 2
    assert np.ptp([mix.onset_samples for mix in drawn]) > RATE_HZ // 4
    assert np.ptp([12 * np.log2(loudest_hz(mix.first) / 500) for mix in drawn]) > 4


def test_stretches_are_drawn_from_their_range() -> None:
    """A second sound of 0.2 s lasts as long as it was stretched, since it fits wherever it is."""
    short = noise(7, RATE_HZ // 5)
    lengths = []
    for seed in range(20):
        mix = draw_mixture(
            noise(8), short, np.random.RandomState(seed), samples=RATE_HZ, rate_hz=RATE_HZ
        )
        lengths.append((np.flatnonzero(mix.second)[-1] + 1 - mix.onset_samples) / len(short))
    assert min(lengths) >= 0.8 - 0.01
    assert max(lengths) <= 1.2 + 0.01
    assert np.ptp(lengths) > 0.25


def test_the_same_stream_mixes_the_same() -> None:
    def mix(seed: int) -> Wave:
        stream = np.random.RandomState(seed)
        return draw_mixture(noise(1), noise(2), stream, samples=RATE_HZ, rate_hz=RATE_HZ).both

    assert np.array_equal(mix(3), mix(3))
    assert not np.array_equal(mix(3), mix(4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rate_hz", "samples"), [(1000, 500), (8000, 9001), (44_100, 44_100)])
def test_procedural_sounds_are_heard_and_repeatable(kind: str, rate_hz: int, samples: int) -> None:
    def sound(seed: int) -> Wave:
        stream = np.random.RandomState(seed)
        return procedural(kind, stream, rate_hz=rate_hz, samples=samples)

    assert sound(1).shape == (samples,)
    assert np.abs(sound(1)).max() == 1.0
    assert np.array_equal(sound(1), sound(1))
    assert not np.array_equal(sound(1), sound(2))


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "NaN": (lambda: stretched([0.1, np.nan], 1.0, rate_hz=RATE_HZ), "NaN"),
    "infinite": (lambda: pitch_shifted([0.1, np.inf], 1.0, rate_hz=RATE_HZ), "infinite"),
    "empty": (lambda: stretched([], 1.0, rate_hz=RATE_HZ), "not empty"),
    "stereo": (lambda: stretched(np.ones((2, 9)), 1.0, rate_hz=RATE_HZ), r"shape \(2, 9\)"),
    "far": (lambda: stretched(noise(0), 5.0, rate_hz=RATE_HZ), "stretch must lie"),
    "no number": (lambda: stretched(noise(0), np.nan, rate_hz=RATE_HZ), "stretch must lie"),
    "octaves": (lambda: pitch_shifted(noise(0), 30.0, rate_hz=RATE_HZ), "stretch must lie"),
    "silent": (lambda: _mixed(noise(0), np.zeros(9), 0), "second sound is silent"),
    "silent first": (lambda: _mixed(np.zeros(9), noise(0), 0), "first sound is silent"),
    "late": (lambda: _mixed(noise(0), noise(1), 100), "onset must lie"),
    "NaN mixed": (lambda: _mixed(noise(0), [np.nan], 0), "second sound holds NaN"),
}


def _mixed(first: object, second: object, onset: int) -> object:
    where = {"onset_samples": onset, "samples": 100, "rate_hz": RATE_HZ}
    return mixed(first, second, snr_db=0.0, **where)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BAD)
def test_unusable_sounds_are_refused(name: str) -> None:
    act, message = BAD[name]
    with pytest.raises(ExportError, match=message):
        act()
