"""Clips → the mono or stereo window that the graphs take, and what is cut from the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_rt.audio import Audio, Samples
from omni_rt.errors import RequestError

MAX_SOURCE_S = 600.0

Mono = NDArray[np.float32]


def read_clip(given: str | Path | Audio, *, what: str) -> Audio:
    """A clip from a path or an Audio, checked: not empty, finite, at most ten minutes.

    Raises RequestError naming `what` ("source", "voice" …).
    """
    if isinstance(given, Audio):
        clip = given
    elif isinstance(given, (str, Path)):
        clip = Audio.read(given, max_duration_s=MAX_SOURCE_S)
    else:
        raise RequestError(f"{what} must be a path or an omni_rt.Audio, got {type(given).__name__}")
    if clip.samples.shape[1] == 0:
        raise RequestError(f"{what} holds no samples")
    if clip.duration_s > MAX_SOURCE_S:
        raise RequestError(f"{what} lasts {clip.duration_s:.0f} s; at most {MAX_SOURCE_S:g} s")
    if not np.isfinite(clip.samples).all():
        raise RequestError(f"{what} holds NaN or infinite samples")
    return clip


def resampled(samples: Samples, *, from_hz: int, to_hz: int) -> Samples:
    """[channels, n] at another rate (soxr, very high quality)."""
    if from_hz == to_hz:
        return samples
    import soxr

    out: Samples = soxr.resample(samples.T, from_hz, to_hz, quality="VHQ").T
    if out.shape[1] == 0:  # a sample or two at a much higher rate
        out = samples[:, :1]
    return np.ascontiguousarray(out, dtype=np.float32)


def mono(clip: Audio, *, rate_hz: int) -> Mono:
    """The mean of the channels at `rate_hz`, [samples]."""
    mixed = clip.samples.mean(axis=0, keepdims=True, dtype=np.float32)
    out: Mono = resampled(mixed, from_hz=clip.sample_rate_hz, to_hz=rate_hz)[0]
    return out


def channels_as(clip: Audio, *, channels: int, rate_hz: int) -> Samples:
    """The clip with so many channels: equal counts as they are, else its mean in each."""
    samples = clip.samples
    if samples.shape[0] != channels:
        samples = np.repeat(samples.mean(axis=0, keepdims=True), channels, axis=0)
    return resampled(samples, from_hz=clip.sample_rate_hz, to_hz=rate_hz)


def fitted(samples: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """The last axis cut or padded with zeros at its end to `length` samples."""
    kept = samples[..., :length]
    missing = length - kept.shape[-1]
    return np.pad(kept, [(0, 0)] * (samples.ndim - 1) + [(0, missing)]) if missing else kept


def trim_silence(
    samples: Samples,
    *,
    rate_hz: int,
    below_peak_db: float = 30.0,
    frame_samples: int = 2048,
    hop_samples: int = 512,
    min_s: float = 0.2,
) -> Samples:
    """Without leading and trailing frames `below_peak_db` under the loudest one's energy.

    Returns the input if less than `min_s` would remain (spec UPSTREAM §10).
    """
    energy = samples.mean(axis=0) ** 2
    padded = np.pad(energy, frame_samples // 2)
    sums = np.concatenate([[0.0], np.cumsum(padded, dtype=np.float64)])
    starts = np.arange(0, len(padded) - frame_samples + 1, hop_samples)
    power = sums[starts + frame_samples] - sums[starts]
    loud = np.flatnonzero(power > power.max(initial=0.0) * 10 ** (-below_peak_db / 10))
    if loud.size == 0:
        return samples
    begin, end = loud[0] * hop_samples, (loud[-1] + 1) * hop_samples
    kept = samples[:, begin:end]
    return kept if kept.shape[1] >= min_s * rate_hz else samples


def cross_fade(before: Samples, after: Samples, *, overlap: int) -> Samples:
    """Join two clips whose last and first `overlap` samples show the same time, linearly."""
    if overlap == 0:
        return np.concatenate([before, after], axis=1)
    ramp = np.linspace(0.0, 1.0, overlap, dtype=np.float32)
    mixed = before[:, -overlap:] * (1 - ramp) + after[:, :overlap] * ramp
    return np.concatenate([before[:, :-overlap], mixed, after[:, overlap:]], axis=1)
