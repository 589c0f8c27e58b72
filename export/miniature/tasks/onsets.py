"""When clicks begin."""

from __future__ import annotations

import numpy as np

from omni_rt.export.miniature.data.clip import RATE_HZ, Wave, samples_of
from omni_rt.export.miniature.tasks.spectrum import Floats, band_passed

_BAND_HZ = (800.0, 1_800.0)
_SMOOTH_S = 0.006
_HEARD = 0.33  # of the loudest click's envelope
_BEGINS = 0.5  # of a click's own peak
_DISTINCT_S = 0.09
_QUIET = 0.15  # of the loudest: what the median moment must stay below


def click_onsets_s(clip: Wave) -> tuple[float, ...]:
    """Ascending times in seconds; empty if the clip is not quiet between clicks."""
    envelope = _smoothed(band_passed(clip, *_BAND_HZ))
    loudest = float(envelope.max())
    if loudest == 0 or float(np.median(envelope)) > _QUIET * loudest:
        return ()
    return tuple(_begin_s(envelope, peak) for peak in _peaks(envelope, _HEARD * loudest))


def _smoothed(envelope: Floats) -> Floats:
    width = samples_of(_SMOOTH_S)
    return np.convolve(envelope, np.ones(width) / width, mode="same")


def _peaks(envelope: Floats, least: float) -> list[int]:
    """Loudest sample of each stretch above `least`; stretches too close together are one."""
    loud = np.flatnonzero(envelope > least)
    groups = np.split(loud, np.flatnonzero(np.diff(loud) > samples_of(_DISTINCT_S)) + 1)
    return [int(group[envelope[group].argmax()]) for group in groups]


def _begin_s(envelope: Floats, peak: int) -> float:
    start = max(0, peak - samples_of(0.02))
    rising = envelope[start : peak + 1] > _BEGINS * envelope[peak]
    return float((start + int(rising.argmax())) / RATE_HZ)


def onset_error_s(found: tuple[float, ...], wanted: tuple[float, ...]) -> float:
    """The largest distance of a click from its time; infinite if their number is not right."""
    if len(found) != len(wanted):
        return float("inf")
    return max(abs(a - b) for a, b in zip(found, wanted, strict=True))
