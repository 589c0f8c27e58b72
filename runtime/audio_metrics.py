"""How far two clips of sound are apart, as ears and papers measure it. NumPy, no model.

Clips are [channels, samples] at one rate; channels are compared one by one, and averaged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_rt.audio import Samples
from omni_rt.metrics import cosine
from omni_rt.preprocess.waveform import resampled
from omni_rt.preprocess.whisper_mel import RATE_HZ, bands_below, log_mel
from omni_rt.spectrum import Power, power_spectrogram

# Of power, where a sine of amplitude 1 has 1: what is quieter than −100 dB counts as that loud.
# Rounding to 16 bits lies at −120 dB per bin and is no difference.
FLOOR = 1e-10

_LSD_WINDOW_S = 0.046  # 2048 samples at 44.1 kHz, the size the papers use; a power of two elsewhere
# Windows, hops and transforms of arXiv:1910.11480, table 1, at its 24 kHz: 600/120/1024,
# 1200/240/2048, 240/50/512. Here as times, so that other rates see the same.
_STFT_WINDOWS_S = (0.025, 0.050, 0.010)
_HOPS_PER_WINDOW = 5
_SIZE_PER_WINDOW = 1.5
_LEAST_WINDOW = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundDifference:
    """Two clips: 0, 0 and 1 if they are equal."""

    lsd_db: float
    stft: float
    log_mel_cosine: float


def sound_difference(value: Samples, reference: Samples, *, rate_hz: int) -> SoundDifference:
    """All three measures at once. Raises ValueError as they do."""
    return SoundDifference(
        lsd_db=log_spectral_distance_db(value, reference, rate_hz=rate_hz),
        stft=multi_resolution_stft(value, reference, rate_hz=rate_hz),
        log_mel_cosine=log_mel_cosine(value, reference, rate_hz=rate_hz),
    )


def log_spectral_distance_db(value: Samples, reference: Samples, *, rate_hz: int) -> float:
    """Log-spectral distance: 0 for equal clips, |g| for a gain of g dB; symmetric.

    The mean over frames of the rms over frequencies of the difference of 10·log10 of the power
    spectra, floored at `FLOOR` (−100 dB). Windows: the power of two nearest to 46 ms (2048 samples
    at 44.1 kHz), a quarter of it apart. Tools such as audioldm_eval leave out the factor of 10:
    theirs is about a tenth of this.

    Raises ValueError for clips of different or no size, or with values that are not finite.
    """
    window = max(_LEAST_WINDOW, 2 ** round(math.log2(_LSD_WINDOW_S * rate_hz)))

    def levels(clip: NDArray[np.float32]) -> Power:
        power = power_spectrogram(clip, window=window, hop=window // 4)
        return np.asarray(10 * np.log10(np.maximum(power, FLOOR)))

    return _mean(
        float(np.sqrt(np.square(levels(a) - levels(b)).mean(axis=1)).mean())
        for a, b in _channels(value, reference)
    )


def multi_resolution_stft(value: Samples, reference: Samples, *, rate_hz: int) -> float:
    """Spectral convergence plus log-magnitude distance, the mean over three window sizes.

    Parallel WaveGAN's auxiliary loss (arXiv:1910.11480, eq. 4 to 6): ‖R − V‖ / ‖R‖ of magnitudes,
    plus the mean of |ln R − ln V|, where R is the reference's: not symmetric. Windows of 25, 50 and
    10 ms, a fifth of each apart, zero-padded to the power of two above 1.5 of it; magnitudes are
    floored at −100 dB. 0 for equal clips. Raises ValueError as `log_spectral_distance_db`.
    """
    return _mean(
        _stft_distance(a, b, max(_LEAST_WINDOW, round(seconds * rate_hz)))
        for a, b in _channels(value, reference)
        for seconds in _STFT_WINDOWS_S
    )


def _stft_distance(
    value: NDArray[np.float32], reference: NDArray[np.float32], window: int
) -> float:
    size = 2 ** math.ceil(math.log2(_SIZE_PER_WINDOW * window))
    v, r = (
        np.sqrt(
            np.maximum(
                power_spectrogram(clip, window=window, hop=window // _HOPS_PER_WINDOW, size=size),
                FLOOR,
            )
        )
        for clip in (value, reference)
    )
    convergence = float(np.linalg.norm(r - v) / np.linalg.norm(r))
    return convergence + float(np.abs(np.log(r) - np.log(v)).mean())


def log_mel_cosine(value: Samples, reference: Samples, *, rate_hz: int) -> float:
    """Cosine of the two log-mel spectrograms without their means: 1 for equal clips; symmetric.

    Whisper's log-mel (128 bands up to 8 kHz, 10 ms apart, 80 dB deep below each clip's loudest:
    what the thinker hears), so gain does not matter. Bands beyond half the clips' rate are left
    out: both being empty says nothing. Two silent clips have 1, a silent and another one 0. Of
    clips beyond 5 minutes the first 5 are compared. Raises ValueError as
    `log_spectral_distance_db`.
    """
    bands = bands_below(rate_hz / 2)

    def levels(clip: NDArray[np.float32]) -> Power:
        heard = resampled(clip[None], from_hz=rate_hz, to_hz=RATE_HZ)[0]
        return _centred(log_mel(heard)[:bands].astype(np.float64))

    return _mean(cosine(levels(a), levels(b)) for a, b in _channels(value, reference))


def _centred(levels: Power) -> Power:
    """Levels without their mean; exactly 0 where they are all the same."""
    return levels - levels.mean() if np.ptp(levels) > 0 else np.zeros_like(levels)


def _channels(
    value: Samples, reference: Samples
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Channel by channel. Raises ValueError unless the clips can be compared."""
    if np.ndim(value) != 2 or np.shape(value) != np.shape(reference) or np.size(value) == 0:
        raise ValueError(
            "clips must be [channels, samples] of one size, and not empty, "
            f"got {np.shape(value)} and {np.shape(reference)}"
        )
    if not (np.isfinite(value).all() and np.isfinite(reference).all()):
        raise ValueError("clips hold NaN or infinite samples: they cannot be compared")
    return zip(np.asarray(value, np.float32), np.asarray(reference, np.float32), strict=True)


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
