"""The colour of noise: its slope over frequency."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from omni_rt.export.miniature.data.clip import Wave
from omni_rt.export.miniature.data.waves import SLOPES_DB
from omni_rt.export.miniature.tasks.spectrum import hz_of_bins

_EDGES_HZ = 90.0 * 2 ** (np.arange(15) / 3)  # to 2.3 kHz, in thirds of an octave
_LARGEST_MISS_DB = 2.5  # per octave
_LEAST_FLATNESS = 0.3  # within a third of an octave; Gaussian noise has 0.56


def measured_slope_db(clip: Wave) -> float | None:
    """Decibels per octave; None for what is not noise."""
    power = np.square(np.abs(np.fft.rfft(clip))).astype(np.float64)
    if power.sum() == 0:
        return None
    hz = hz_of_bins(len(clip))
    levels, flatness = [], []
    for low, high in pairwise(_EDGES_HZ):
        band = power[(hz >= low) & (hz < high)] + 1e-12
        levels.append(10 * np.log10(band.mean()))
        flatness.append(np.exp(np.log(band).mean()) / band.mean())
    if np.median(flatness) < _LEAST_FLATNESS:
        return None
    return float(np.polyfit(np.arange(len(levels)) / 3, levels, 1)[0])


def nearest_colour(slope_db: float) -> str | None:
    """The colour whose slope is nearest, None if none is near."""
    nearest = min(SLOPES_DB, key=lambda colour: abs(SLOPES_DB[colour] - slope_db))
    return nearest if abs(SLOPES_DB[nearest] - slope_db) <= _LARGEST_MISS_DB else None
