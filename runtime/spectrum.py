"""Power spectrograms: what sound is compared by, and what pictures of it show. NumPy alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Power = NDArray[np.float64]  # [frames, bins]

_BLOCK_FRAMES = 2048  # transformed at once, to bound the memory


def power_spectrogram(
    samples: NDArray[np.floating], *, window: int, hop: int, size: int | None = None
) -> Power:
    """Power [1 + n // hop, size / 2 + 1] of mono samples [n]; a sine of amplitude 1 has power 1.

    Frame i is `window` samples under a periodic Hann, centred on sample i · hop; beyond its ends
    the clip is silent. Transformed with zeros up to `size` (`window` if not given).
    """
    taper = _hann(window)
    padded = np.pad(samples, window // 2)
    if len(padded) < window:
        padded = np.pad(padded, (0, window - len(padded)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    bins = (window if size is None else size) // 2 + 1
    power = np.empty((len(frames), bins))
    for start in range(0, len(frames), _BLOCK_FRAMES):
        block = slice(start, start + _BLOCK_FRAMES)
        spectrum = np.fft.rfft(frames[block] * taper, size)  # the taper makes it fp64
        power[block] = spectrum.real**2 + spectrum.imag**2
    power /= (taper.sum() / 2) ** 2
    return power


@lru_cache(maxsize=16)
def _hann(samples: int) -> NDArray[np.float64]:
    return np.hanning(samples + 1)[:samples].astype(np.float64)
