"""Root and quality of a chord, from how much of each pitch class there is."""

from __future__ import annotations

import numpy as np

from omni_rt.export.miniature.data.clip import Wave
from omni_rt.export.miniature.data.sounds import QUALITIES
from omni_rt.export.miniature.tasks.spectrum import (
    SPECTRUM_SAMPLES,
    Floats,
    hz_of_bins,
    magnitudes,
)

_LOWEST_HZ, _HIGHEST_HZ = 245.0, 1_040.0  # C4 to C6
_OFF_PITCH_SEMITONES = 0.35
_LEAST_FIT = 0.8  # cosine: flat chroma has 0.5


def measured_chord(clip: Wave) -> tuple[int, str] | None:
    """(root, quality) of what fits best, None if nothing fits well."""
    chroma = _chroma(clip)
    norm = float(np.linalg.norm(chroma))
    if norm == 0:
        return None
    fits = {
        (root, quality): float(chroma[[(root + step) % 12 for step in steps]].sum())
        for quality, steps in QUALITIES.items()
        for root in range(12)
    }
    best = max(fits, key=fits.__getitem__)
    return best if fits[best] / (np.sqrt(3) * norm) >= _LEAST_FIT else None


def _chroma(clip: Wave) -> Floats:
    """[12], C first: the root of each class's power, bins between the pitches left out."""
    hz = hz_of_bins(SPECTRUM_SAMPLES)
    used = (hz > _LOWEST_HZ) & (hz < _HIGHEST_HZ)
    above_c = 12 * np.log2(hz[used] / 440.0) + 9
    nearest = np.rint(above_c)
    on_pitch = np.abs(above_c - nearest) < _OFF_PITCH_SEMITONES
    power = np.square(magnitudes(clip)[used])
    classes = nearest[on_pitch].astype(int) % 12
    return np.sqrt(np.bincount(classes, weights=power[on_pitch], minlength=12))
