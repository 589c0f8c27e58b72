"""A formant voice: consonant + vowel from harmonics of a pitch and bursts of noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_rt.export.miniature.data.clip import RATE_HZ, Stream, Wave, samples_of

SYLLABLE_S = 0.2
_TRANSITION_S = 0.05  # from the consonant's formants to the vowel's
_HIGHEST_HZ = 3_700.0

_Curve = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A speaker: pitch in Hz, and how much higher than the table's the formants are."""

    pitch_hz: float
    formants: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Consonant:
    """Noise in a band of Hz for a while, or a murmur; then formants that start somewhere else."""

    noise_hz: tuple[float, float]
    noise_s: float
    noise_rms: float
    locus_hz: tuple[float, float]  # where F1 and F2 come from
    voiced_s: float  # when the voice begins
    murmur_s: float = 0.0  # nasal, before the vowel


# Low, high, middle bursts; a hiss; a murmur: as labials, dentals, velars differ. All that tells
# them apart lies below 2 kHz, the half that an autoencoder of two to one can keep whole.
CONSONANTS = {
    "b": Consonant(
        noise_hz=(200, 900), noise_s=0.01, noise_rms=0.5, locus_hz=(250, 600), voiced_s=0.008
    ),
    "d": Consonant(
        noise_hz=(1500, 2000), noise_s=0.012, noise_rms=0.6, locus_hz=(250, 1800), voiced_s=0.012
    ),
    "k": Consonant(
        noise_hz=(900, 1400), noise_s=0.04, noise_rms=0.5, locus_hz=(350, 1400), voiced_s=0.045
    ),
    "s": Consonant(
        noise_hz=(1300, 2000), noise_s=0.075, noise_rms=0.45, locus_hz=(300, 1500), voiced_s=0.07
    ),
    "m": Consonant(
        noise_hz=(200, 900),
        noise_s=0.0,
        noise_rms=0.0,
        locus_hz=(250, 900),
        voiced_s=0.0,
        murmur_s=0.07,
    ),
}
VOWELS = {"a": (750.0, 1200.0), "i": (280.0, 1750.0), "u": (330.0, 750.0)}  # F1, F2 in Hz
_F3_HZ = 2_500.0


def syllable(consonant: str, vowel: str, voice: Voice, *, glide: float, stream: Stream) -> Wave:
    """One syllable [1600] whose vowel has RMS 1; `glide`: the pitch's relative change."""
    sound = CONSONANTS[consonant]
    samples = samples_of(SYLLABLE_S)
    time_s = np.arange(samples) / RATE_HZ
    begins_s = sound.murmur_s or sound.voiced_s
    blend = np.clip((time_s - begins_s) / _TRANSITION_S, 0, 1)
    f1, f2 = (
        (locus + (goal - locus) * blend) * voice.formants
        for locus, goal in zip(sound.locus_hz, VOWELS[vowel], strict=True)
    )
    wave = _voiced(time_s, voice, glide, (f1, f2)) * _vowel_envelope(time_s, sound)
    vowel_rms = np.sqrt(np.mean(wave[time_s > begins_s + _TRANSITION_S] ** 2))
    wave = wave / vowel_rms
    if sound.murmur_s:
        before = time_s < sound.murmur_s
        murmur = _voiced(time_s, voice, glide, (250 * voice.formants + 0 * time_s, None))
        murmur *= np.clip(time_s / 0.015, 0, 1) * 0.5 / np.sqrt(np.mean(murmur[before] ** 2))
        wave = np.where(before, murmur, wave)
    wave[: samples_of(sound.noise_s)] += _burst(sound, stream)
    wave *= np.clip((SYLLABLE_S - time_s) / 0.04, 0, 1)
    return wave.astype(np.float32)


def _vowel_envelope(time_s: _Curve, sound: Consonant) -> _Curve:
    begins_s = sound.murmur_s or sound.voiced_s
    rise = np.clip((time_s - begins_s) / 0.012, 0, 1)
    return np.asarray(np.maximum(rise, time_s < sound.murmur_s), dtype=np.float64)


def _voiced(
    time_s: _Curve, voice: Voice, glide: float, formants: tuple[_Curve, _Curve | None]
) -> _Curve:
    """Harmonics of a gliding pitch, each as loud as the resonances make it then."""
    hz = voice.pitch_hz * (1 + glide * (time_s / SYLLABLE_S - 0.5))
    turns = np.cumsum(hz) / RATE_HZ
    numbers = np.arange(1, int(_HIGHEST_HZ / hz.max()) + 1)[:, None]
    at_hz = numbers * hz
    f1, f2 = formants
    gain = _resonance(at_hz, f1, 90)
    if f2 is not None:
        gain = gain + 0.6 * _resonance(at_hz, f2, 130)
        gain = gain + 0.25 * _resonance(at_hz, _F3_HZ * voice.formants, 200)
    phase = 2 * np.pi * (numbers * turns + 0.19 * numbers**2)  # spread, so that no spikes add up
    return np.asarray((gain * np.sin(phase)).sum(axis=0), dtype=np.float64)


def _resonance(hz: _Curve, centre_hz: _Curve | float, width_hz: float) -> _Curve:
    return np.asarray(1 / np.sqrt(1 + ((hz - centre_hz) / width_hz) ** 2), dtype=np.float64)


def _burst(sound: Consonant, stream: Stream) -> _Curve:
    """Noise of the consonant's band, rising fast and falling."""
    samples = samples_of(sound.noise_s)
    if samples == 0:
        return np.zeros(0)
    room = 1024
    spectrum = np.fft.rfft(stream.standard_normal(room))
    hz = np.fft.rfftfreq(room, 1 / RATE_HZ)
    spectrum[(hz < sound.noise_hz[0]) | (hz > sound.noise_hz[1])] = 0
    band = np.fft.irfft(spectrum, room)
    ramp = np.arange(samples) / samples
    envelope = np.minimum(1, ramp / 0.15) * np.minimum(1, (1 - ramp) / 0.3)
    return np.asarray(band[:samples] / band.std() * sound.noise_rms * envelope, dtype=np.float64)
