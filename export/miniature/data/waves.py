"""Periodic waves, sweeps and coloured noise, from tables: fast enough to draw while training."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from omni_rt.export.miniature.data.clip import (
    CLIP_SAMPLES,
    RATE_HZ,
    STEP_SAMPLES,
    WINDOW_SAMPLES,
    Stream,
    Wave,
    samples_of,
)

SHAPES = ("sine", "square", "saw", "triangle")
ORGAN = "organ"  # for chords: overtones that are hardly more than octaves
SLOPES_DB = {"brown": -6.0, "pink": -3.0, "white": 0.0, "blue": 3.0}  # per octave
COLOURS = tuple(SLOPES_DB)

HIGHEST_HZ = 3_800.0  # overtones end here
LOWEST_NOISE_HZ = 60.0
_TABLE_BITS = 13
_GRAINS, _GRAIN_SEED = 4, 20_260
_COUNT = np.arange(CLIP_SAMPLES, dtype=np.uint32)


def _overtones(shape: str, count: int) -> dict[int, float]:
    """Harmonic number → amplitude of its sine."""
    numbers = range(1, count + 1)
    if shape == "sine":
        return {1: 1.0}
    if shape == "square":
        return {k: 1 / k for k in numbers if k % 2}
    if shape == "saw":
        return {k: 1 / k for k in numbers}
    if shape == "triangle":
        return {k: (-1.0) ** (k // 2) / k**2 for k in numbers if k % 2}
    assert shape == ORGAN
    return {k: a for k, a in ((1, 1.0), (2, 0.35), (3, 0.08)) if k <= count}


@lru_cache(maxsize=256)
def _period(shape: str, count: int) -> Wave:
    """One period [2^13] of RMS 1."""
    angle = 2 * np.pi * np.arange(1 << _TABLE_BITS) / (1 << _TABLE_BITS)
    wave = sum(a * np.sin(k * angle) for k, a in _overtones(shape, count).items())
    rms = np.sqrt(np.mean(np.square(wave)))
    return np.asarray(wave / rms, dtype=np.float32)


def tone(shape: str, hz: float, samples: int, *, onset_s: float) -> Wave:
    """A band-limited periodic wave [samples] of RMS 1, heard from `onset_s` on.

    Its oscillator has run since the clip began, so what a caption names is one wave, whenever it is
    heard. Were its phase random, all sounds of a caption would be 0 on average: a small model would
    learn from the caption next to nothing while noise still hides the sound.
    """
    period = _period(shape, max(1, int(HIGHEST_HZ / hz)))
    step = np.uint32(round(hz / RATE_HZ * 2**32))
    first = samples_of(onset_s)
    phase = _COUNT[first : first + samples] * step  # wraps around: a whole turn is 2^32
    wave: Wave = period[phase >> np.uint32(32 - _TABLE_BITS)]
    return wave


def sweep(start_hz: float, end_hz: float, samples: int, *, onset_s: float) -> Wave:
    """A sine [samples] of RMS 1, heard from `onset_s` on, that sweeps as long as the clip lasts.

    Its frequency goes exponentially from one to the other in 2 s.
    """
    octaves, first = np.log(end_hz / start_hz), samples_of(onset_s)
    growth = np.exp(octaves / WINDOW_SAMPLES * np.arange(first, first + samples))
    turns = start_hz * WINDOW_SAMPLES / RATE_HZ / octaves * (growth - 1)
    return np.asarray(np.sqrt(2) * np.sin(2 * np.pi * turns), dtype=np.float32)


@lru_cache(maxsize=8)
def _colour_gain(colour: str) -> Wave:
    hz = np.fft.rfftfreq(CLIP_SAMPLES, 1 / RATE_HZ)
    gain = np.maximum(hz, LOWEST_NOISE_HZ) ** (SLOPES_DB[colour] / (20 * np.log10(2)))
    gain[hz < LOWEST_NOISE_HZ] = 0
    return np.asarray(gain / np.sqrt(np.mean(np.square(gain))), dtype=np.float32)


@lru_cache(maxsize=8)
def _grains(colour: str) -> Wave:
    """Steps of Gaussian noise [_GRAINS, STEP_SAMPLES] of RMS about 1, the same in every process."""
    stream = Stream([_GRAIN_SEED, COLOURS.index(colour)])
    spectrum = np.fft.rfft(stream.standard_normal((_GRAINS, CLIP_SAMPLES)))
    shaped = np.fft.irfft(spectrum * _colour_gain(colour), CLIP_SAMPLES)
    return shaped[:, :STEP_SAMPLES].astype(np.float32)


def noise(colour: str, samples: int, stream: Stream) -> Wave:
    """Granular noise [samples] of RMS about 1 with the colour's slope, from 60 Hz up.

    Every step is one of a few: a small autoencoder knows them.
    """
    grains = _grains(colour)
    order = stream.randint(_GRAINS, size=-(-samples // STEP_SAMPLES))
    return grains[order].reshape(-1)[:samples]


def click(hz: float, decay_s: float, samples: int) -> Wave:
    """A burst [samples] of peak about 1 that dies away."""
    time_s = np.arange(samples) / RATE_HZ
    rise = np.minimum(1, time_s / 0.001)
    return np.asarray(
        rise * np.exp(-time_s / decay_s) * np.sin(2 * np.pi * hz * time_s), np.float32
    )
