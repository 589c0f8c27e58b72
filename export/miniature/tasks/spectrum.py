"""Spectra that the scores look at."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from omni_rt.errors import RequestError
from omni_rt.export.miniature.data.clip import CLIP_SAMPLES, RATE_HZ, Wave

Floats = NDArray[np.float64]

SPECTRUM_SAMPLES = 32_768  # 0.24 Hz apart


def mono_clip(waveform: NDArray[np.floating], rate_hz: int) -> Wave:
    """A clip [n] of peak 1 from [n] or [channels, n]; silent if it is, or is not finite.

    Raises RequestError for another rate than 8 kHz, another shape, or no samples.
    """
    if rate_hz != RATE_HZ:
        raise RequestError(f"the miniature's scores are for {RATE_HZ} Hz, got {rate_hz} Hz")
    samples = np.asarray(waveform, dtype=np.float32)
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise RequestError(f"audio must be [samples] or [channels, samples], got {samples.shape}")
    clip = samples if samples.ndim == 1 else samples.mean(axis=0)
    loudest = float(np.abs(clip).max())
    if not np.isfinite(loudest) or loudest < 1e-6:
        return np.zeros_like(clip)
    return np.asarray(clip / np.float32(loudest), dtype=np.float32)


def as_long_as_a_clip(clip: Wave) -> Wave:
    """Exactly CLIP_SAMPLES: filled with silence, or cut."""
    kept = clip[:CLIP_SAMPLES]
    return np.pad(kept, (0, CLIP_SAMPLES - len(kept)))


def hz_of_bins(samples: int) -> Floats:
    """The frequencies of a transform of so many samples."""
    return np.asarray(np.fft.rfftfreq(samples, 1 / RATE_HZ), dtype=np.float64)


def magnitudes(clip: Wave) -> Floats:
    """Of the whole clip under a Hann window, zero-padded: bins 0.24 Hz apart."""
    return np.abs(np.fft.rfft(clip * _hann(len(clip)), SPECTRUM_SAMPLES)).astype(np.float64)


def spectrogram(clip: Wave, *, size: int, hop: int) -> Floats:
    """Power [frames, size / 2 + 1]; frame i is centred on sample i · hop."""
    padded = np.pad(clip, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    return np.square(np.abs(np.fft.rfft(frames * _hann(size)))).astype(np.float64)


@lru_cache(maxsize=32)
def _hann(samples: int) -> Wave:
    return np.hanning(samples + 1)[:samples].astype(np.float32)


def band_passed(clip: Wave, low_hz: float, high_hz: float) -> Floats:
    """The magnitude of the analytic signal of one band: its envelope."""
    spectrum = np.fft.fft(clip)
    hz = np.fft.fftfreq(len(clip), 1 / RATE_HZ)
    spectrum[(hz < low_hz) | (hz > high_hz)] = 0
    return np.asarray(2 * np.abs(np.fft.ifft(spectrum)), dtype=np.float64)
