"""What a voice says and whose it is, by comparing with the synthesiser's own syllables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from omni_rt.export.miniature.data.clip import RATE_HZ, Wave, samples_of
from omni_rt.export.miniature.data.formants import SYLLABLE_S
from omni_rt.export.miniature.data.speech import (
    FORMANTS,
    PITCHES_HZ,
    SYLLABLES,
    VOICES,
    spoken,
)
from omni_rt.export.miniature.tasks.spectrum import Floats, spectrogram

_SIZE, _HOP = 256, 64
_SYLLABLE_FRAMES = samples_of(SYLLABLE_S) // _HOP
_FLOOR = 0.03  # of a loud frame's power: softer pieces are all alike
_VOWEL_S = (0.1, 0.18)  # within a syllable: where every one is voiced
_PITCH_MISS = 0.12
_OCTAVE_MARGIN = 0.85
_LAGS = 8  # in a sample: a high formant is out of step half a sample beside the period


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """Syllables, and the index of the voice in VOICES (−1: none of them)."""

    syllables: tuple[str, ...]
    voice: int
    pitch_hz: float


def heard_speech(clip: Wave) -> Heard:
    """The most likely string of syllables and voice."""
    clip = np.pad(clip, (0, max(0, samples_of(2 * SYLLABLE_S) - len(clip))))
    features = _features(clip)
    if features is None:
        return Heard(syllables=(), voice=-1, pitch_hz=0.0)
    readings = [_reading(features, voice) for voice in range(len(VOICES))]
    likeliest = min(readings, key=lambda reading: reading[0])
    hz = _pitch_hz(clip, [start for start, _ in likeliest[1]])
    nearest = min(range(len(PITCHES_HZ)), key=lambda i: abs(np.log((hz or 1) / PITCHES_HZ[i])))
    if not hz or abs(hz / PITCHES_HZ[nearest] - 1) > _PITCH_MISS:
        return Heard(syllables=_names(likeliest[1]), voice=-1, pitch_hz=hz)
    alike = range(nearest * len(FORMANTS), (nearest + 1) * len(FORMANTS))
    voice = min(alike, key=lambda index: readings[index][0])
    return Heard(syllables=_names(readings[voice][1]), voice=voice, pitch_hz=hz)


def _names(found: list[tuple[int, int]]) -> tuple[str, ...]:
    return tuple(SYLLABLES[index] for _, index in found)


def _features(clip: Wave) -> Floats | None:
    """Log power [frames, bands] above a floor, relative to the loud frames; None for silence."""
    power = spectrogram(clip, size=_SIZE, hop=_HOP)[:, 1:]
    bands = power.reshape(len(power), -1, 2).mean(axis=2)
    loud = float(np.percentile(bands.mean(axis=1), 90))
    return None if loud == 0 else np.log(bands / loud + _FLOOR)


@lru_cache(maxsize=8)
def _templates(voice: int) -> Floats:
    """[syllables, frames · bands]."""
    rows = []
    for name in SYLLABLES:
        power = spectrogram(spoken(name, voice), size=_SIZE, hop=_HOP)[:, 1:]
        bands = power.reshape(len(power), -1, 2).mean(axis=2)[:_SYLLABLE_FRAMES]
        loud = float(np.percentile(bands.mean(axis=1), 75))
        rows.append(np.log(bands / loud + _FLOOR).ravel())
    return np.stack(rows)


def _reading(features: Floats, voice: int) -> tuple[float, list[tuple[int, int]]]:
    """The cheapest way to cover all frames with syllables and silence.

    Returns its cost, and (first frame, index of SYLLABLES) of each syllable.
    """
    windows = np.lib.stride_tricks.sliding_window_view(features, _SYLLABLE_FRAMES, axis=0)
    spans = windows.transpose(0, 2, 1).reshape(len(windows), -1)
    templates = _templates(voice)
    distance = (
        np.square(spans).sum(axis=1)[:, None]
        - 2 * spans @ templates.T
        + np.square(templates).sum(axis=1)
    )
    return _cheapest_cover(distance, np.square(features - np.log(_FLOOR)).sum(axis=1))


def _cheapest_cover(distance: Floats, silence: Floats) -> tuple[float, list[tuple[int, int]]]:
    """Dynamic programme over the frames: distance [starts, syllables], silence [frames]."""
    best, choice = distance.min(axis=1), distance.argmin(axis=1)
    cost = np.zeros(len(silence) + 1)
    spoke = np.zeros(len(silence) + 1, dtype=bool)
    for end in range(1, len(silence) + 1):
        cost[end] = cost[end - 1] + silence[end - 1]
        start = end - _SYLLABLE_FRAMES
        if start >= 0 and cost[start] + best[start] < cost[end]:
            cost[end], spoke[end] = cost[start] + best[start], True
    found, end = [], len(silence)
    while end > 0:
        if spoke[end]:
            end -= _SYLLABLE_FRAMES
            found.append((end, int(choice[end])))
        else:
            end -= 1
    return float(cost[-1]), found[::-1]


def _pitch_hz(clip: Wave, starts: list[int]) -> float:
    """The median pitch of the vowels of syllables that begin at these frames; 0 without any."""
    found = []
    for start in starts:
        begin, end = (start * _HOP + samples_of(second) for second in _VOWEL_S)
        vowel = clip[begin:end]
        if len(vowel) == end - begin and np.abs(vowel).max() > 0:
            found.append(_vowel_pitch_hz(vowel))
    return float(np.median(found)) if found else 0.0


def _vowel_pitch_hz(vowel: Wave) -> float:
    """By autocorrelation between the samples too; of lags that fit nearly as well, the shortest."""
    power = np.square(np.abs(np.fft.rfft(vowel - vowel.mean(), 2048)))
    lags = np.fft.irfft(power, _LAGS * 2048)[: _LAGS * len(vowel) // 2]
    lags = lags / (len(vowel) - np.arange(len(lags)) / _LAGS)
    shortest, longest = _LAGS * RATE_HZ // 260, _LAGS * RATE_HZ // 85
    fits = lags[shortest : longest + 1]
    peaks = np.flatnonzero((fits[1:-1] >= fits[:-2]) & (fits[1:-1] >= fits[2:])) + 1
    good = peaks[fits[peaks] >= _OCTAVE_MARGIN * fits[peaks].max()] if len(peaks) else peaks
    return float(_LAGS * RATE_HZ / (shortest + int(good[0]))) if len(good) else 0.0
