"""Whether the loudest frequency goes up or down."""

from __future__ import annotations

import numpy as np

from omni_rt.export.miniature.data.clip import RATE_HZ, Wave
from omni_rt.export.miniature.tasks.spectrum import Floats, spectrogram

_SIZE, _HOP = 512, 128
_LOWEST_HZ, _HIGHEST_HZ = 120.0, 3_200.0
_AUDIBLE = 0.03  # of the loudest frame's power
_LEAST_FRAMES = 20
_LEAST_FIT = 0.75  # correlation of time and pitch
_LEAST_OCTAVES = 0.6  # from the first frames to the last


def measured_direction(clip: Wave) -> int:
    """1 up, −1 down, 0 neither."""
    octave, when = _track(clip)
    if len(octave) < _LEAST_FRAMES:
        return 0
    fifth = len(octave) // 5
    change = float(np.median(octave[-fifth:]) - np.median(octave[:fifth]))
    fit = float(np.corrcoef(octave, when)[0, 1]) if octave.std() > 1e-6 else 0.0
    if abs(fit) < _LEAST_FIT or abs(change) < _LEAST_OCTAVES or fit * change < 0:
        return 0
    return 1 if change > 0 else -1


def _track(clip: Wave) -> tuple[Floats, Floats]:
    """Octaves above 1 Hz of the loudest bin of each audible frame, and the frame's number."""
    power = spectrogram(clip, size=_SIZE, hop=_HOP)
    low, high = (round(hz * _SIZE / RATE_HZ) for hz in (_LOWEST_HZ, _HIGHEST_HZ))
    band = power[:, low : high + 1]
    loudest = band.max(axis=1)
    audible = (loudest > loudest.max() * _AUDIBLE) & (loudest > 0)
    bins = band[audible].argmax(axis=1) + low
    return np.log2(bins * RATE_HZ / _SIZE), np.flatnonzero(audible).astype(np.float64)
