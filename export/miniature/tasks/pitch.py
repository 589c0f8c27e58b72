"""Which pitch a tone has, and which wave shape by its overtones."""

from __future__ import annotations

import numpy as np

from omni_rt.export.miniature.data.clip import RATE_HZ, Wave
from omni_rt.export.miniature.tasks.spectrum import (
    SPECTRUM_SAMPLES,
    Floats,
    hz_of_bins,
    magnitudes,
)

PITCH_TOLERANCE = 0.03
_LOWEST_HZ, _HIGHEST_HZ = 110.0, 1_100.0
_HIGHEST_OVERTONE_HZ = 3_900.0
_SECOND_MEANS_SAW = 10 ** (-13 / 10)  # a saw's is −6 dB, nobody else has one
_THIRD_MEANS_SQUARE = 10 ** (-14 / 10)  # a square's is −9.5 dB, a triangle's −19 dB
_THIRD_MEANS_TRIANGLE = 10 ** (-27 / 10)
_TONAL_SHARE = 0.5
_ROOM, _LEAST_ROOM_HZ = 0.02, 8.0  # around a harmonic, relative to it and in Hz
_MOST_ROOM = 0.15  # around a harmonic, relative to the fundamental: noise has a third in it


def measured_tone(clip: Wave) -> tuple[float, str]:
    """Fundamental in Hz and wave shape; (0, "") for what is no tone."""
    power = np.square(magnitudes(clip))
    hz = hz_of_bins(SPECTRUM_SAMPLES)
    sung = np.where((hz > _LOWEST_HZ) & (hz < _HIGHEST_HZ), power, 0)
    fundamental = float(hz[int(sung.argmax())])
    if sung.max() == 0 or not _is_tonal(power, hz, fundamental):
        return 0.0, ""
    return fundamental, _shape(power, fundamental)


def _bins(spectrum: Floats, hz: float, room_hz: float) -> Floats:
    """The bins that are no further than that from a frequency."""
    per_hz = SPECTRUM_SAMPLES / RATE_HZ
    return spectrum[max(0, round((hz - room_hz) * per_hz)) : round((hz + room_hz) * per_hz) + 1]


def _is_tonal(power: Floats, hz: Floats, fundamental: float) -> bool:
    """Half the power or more between 60 Hz and 3.9 kHz lies near the tone's harmonics."""
    share = 0.0
    for k in range(1, int(_HIGHEST_OVERTONE_HZ / fundamental) + 1):
        room_hz = min(max(_ROOM * k * fundamental, _LEAST_ROOM_HZ), _MOST_ROOM * fundamental)
        share += float(_bins(power, k * fundamental, room_hz).sum())
    return share >= _TONAL_SHARE * float(power[(hz > 60) & (hz < _HIGHEST_OVERTONE_HZ)].sum())


def _shape(power: Floats, fundamental: float) -> str:
    first, second, third = (_harmonic(power, k * fundamental) for k in (1, 2, 3))
    if second > first * _SECOND_MEANS_SAW:
        return "saw"
    if third > first * _THIRD_MEANS_SQUARE:
        return "square"
    return "triangle" if third > first * _THIRD_MEANS_TRIANGLE else "sine"


def _harmonic(power: Floats, hz: float) -> float:
    """The power around a frequency, less that of the noise it lies in."""
    near = _bins(power, hz, max(_ROOM * hz, _LEAST_ROOM_HZ))
    around = _bins(power, hz, 4 * max(_ROOM * hz, _LEAST_ROOM_HZ))
    noise = float(np.median(around)) / np.log(2)  # the mean of what has this median
    return max(0.0, float(near.sum()) - noise * len(near))


def is_pitch(measured_hz: float, wanted_hz: float) -> bool:
    """Within 3 %: half a semitone."""
    return abs(measured_hz / wanted_hz - 1) < PITCH_TOLERANCE
