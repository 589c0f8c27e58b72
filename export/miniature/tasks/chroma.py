"""Root and quality of a chord, from how much of each pitch class there is."""

from __future__ import annotations

import numpy as np

from omni_rt.export.miniature.data.clip import Wave
from omni_rt.export.miniature.data.sounds import QUALITIES, pitch_hz
from omni_rt.export.miniature.tasks.spectrum import (
    SPECTRUM_SAMPLES,
    Floats,
    hz_of_bins,
    magnitudes,
)

_LOWEST_HZ, _HIGHEST_HZ = 245.0, 1_040.0  # C4 to C6
_PITCHES_HZ = np.array([pitch_hz(pitch, 4) for pitch in range(25)])
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
    off = 12 * np.abs(np.log2(hz[used][:, None] / _PITCHES_HZ))
    on_pitch = off.min(axis=1) < _OFF_PITCH_SEMITONES
    power = np.square(magnitudes(clip)[used])
    classes = off.argmin(axis=1)[on_pitch] % 12
    return np.sqrt(np.bincount(classes, weights=power[on_pitch], minlength=12))
