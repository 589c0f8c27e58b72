"""A recording → the log-mel chunks that the thinker's audio tower takes (spec THINKER §3.2)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from omni_rt.errors import RequestError

RATE_HZ = 16_000
MAX_S = 300  # what is longer is cut: the model's feature extractor hears no more

_MAX_SAMPLES = RATE_HZ * MAX_S
_HOP_SAMPLES = 160
_FRAME_SAMPLES = 400
_BLOCK_FRAMES = 2048  # at most so many frames in memory: 6.5 MB
_FLOOR = 1e-10

Mel = NDArray[np.float32]  # [bands, frames]


def log_mel(waveform: NDArray[np.float32], *, bands: int = 128) -> Mel:
    """[bands, ⌈n/160⌉] of mono samples [n] at `RATE_HZ`: Whisper's features (arXiv:2212.04356).

    Raises RequestError if there are no samples or more than one axis.
    """
    if waveform.ndim != 1 or waveform.size == 0:
        raise RequestError(f"a recording must be [samples], not empty; got shape {waveform.shape}")
    heard = waveform[:_MAX_SAMPLES]
    length = math.ceil(len(heard) / _HOP_SAMPLES)
    # The next two frames still see the clip's end, and count for its maximum, as in the original.
    windows = np.lib.stride_tricks.sliding_window_view(_padded(heard), _FRAME_SAMPLES)
    frames = windows[::_HOP_SAMPLES][: min(length + 2, _MAX_SAMPLES // _HOP_SAMPLES)]
    filters, taper = _mel_filters(bands), np.hanning(_FRAME_SAMPLES + 1)[:-1]
    logs = np.empty((bands, len(frames)), np.float32)
    for start in range(0, len(frames), _BLOCK_FRAMES):
        block = slice(start, start + _BLOCK_FRAMES)
        spectrum = np.fft.rfft(frames[block] * taper)  # the taper makes it fp64
        power = spectrum.real**2 + spectrum.imag**2
        logs[:, block] = np.log10(np.maximum(filters @ power.T, _FLOOR))
    floored: Mel = (np.maximum(logs[:, :length], logs.max() - np.float32(8)) + 4) / 4
    return floored


def _padded(heard: NDArray[np.float32]) -> NDArray[np.float32]:
    """Filled with zeros as if to `MAX_S`, as far as frames see them, and mirrored at both ends."""
    zeros = min(_MAX_SAMPLES - len(heard), 2 * _HOP_SAMPLES + _FRAME_SAMPLES)
    return np.pad(np.pad(heard, (0, zeros)), _FRAME_SAMPLES // 2, mode="reflect")


def _mel_filters(bands: int) -> NDArray[np.float64]:
    """[bands, bins]: Slaney's triangles of area 1, 0 to `RATE_HZ`/2, linear below 1 kHz."""
    knee_mel, knee_hz, log_step = 15.0, 1000.0, math.log(6.4) / 27
    top_mel = knee_mel + math.log(RATE_HZ / 2 / knee_hz) / log_step
    mels = np.linspace(0, top_mel, bands + 2)
    logarithmic = knee_hz * np.exp(log_step * np.maximum(mels - knee_mel, 0))
    corners = np.where(mels < knee_mel, mels * (knee_hz / knee_mel), logarithmic)[:, None]
    hz = np.linspace(0, RATE_HZ / 2, _FRAME_SAMPLES // 2 + 1)
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    triangles = np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre))
    filters: NDArray[np.float64] = np.maximum(triangles, 0) * 2 / (high - low)
    return filters


def bands_below(hz: float, *, bands: int = 128) -> int:
    """How many of the bands lie below a frequency as a whole; at least one."""
    bins_hz = np.linspace(0, RATE_HZ / 2, _FRAME_SAMPLES // 2 + 1)
    above = _mel_filters(bands)[:, bins_hz > hz].any(axis=1)
    return max(1, bands - int(above.sum()))


def chunked(mel: Mel, *, frames: int = 200) -> tuple[Mel, NDArray[np.int64]]:
    """Chunks [c, bands, frames] and how many frames [c] of each are the clip's.

    The rest of the last chunk is literally 0, not the log floor: the tower's own padding.
    """
    bands, length = mel.shape
    chunks = math.ceil(length / frames)
    filled = np.zeros((bands, chunks * frames), np.float32)
    filled[:, :length] = mel
    lengths = np.minimum(length - frames * np.arange(chunks, dtype=np.int64), frames)
    parts = filled.reshape(bands, chunks, frames).transpose(1, 0, 2)
    return np.ascontiguousarray(parts), lengths


def token_count(frames: int) -> int:
    """Tokens that the audio tower makes of so many mel frames: 25 a second, 0 below 3 frames."""
    return (frames + 1) // 2 // 2
