"""Requests → final pieces of audio: one window, or segments that are faded into each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from omni_rt.audio import Audio, Samples, peak_normalised
from omni_rt.encode import Conditioning, Floats
from omni_rt.errors import RequestError
from omni_rt.manifest import Dims
from omni_rt.options import Sampling, nth_seed
from omni_rt.pipeline import Pipeline
from omni_rt.preprocess.waveform import cross_fade, fitted, mono, trim_silence
from omni_rt.tasks import VOICE_S, Edit, Request

_EDIT_OVERLAP_S = 1.0
_WINDOW_SLACK_S = 0.25  # a source this much longer than the window is still edited as one


def requested_samples(dims: Dims, duration_s: float, *, long: bool) -> int:
    """Samples of a duration. Raises RequestError if one window is all that the task has."""
    samples = max(1, round(duration_s * dims.sample_rate_hz))
    if samples > dims.clip_samples and not long:
        window_s = dims.clip_samples / dims.sample_rate_hz
        raise RequestError(
            f"duration_s {duration_s:g}: this task makes one window of at most {window_s:.2f} s"
        )
    return samples


def finished(request: Request, clip: Samples, dims: Dims, total: int) -> Samples:
    """Cut what the caller did not ask for: the voice prompt's own words, silence, the end."""
    given = request.clip()
    if isinstance(given, Audio) and not isinstance(request, Edit):
        voice = round(min(given.duration_s, VOICE_S) * dims.sample_rate_hz)
        clip = trim_silence(clip[:, voice:], rate_hz=dims.sample_rate_hz)
    return np.ascontiguousarray(clip[:, :total])


def segment_count(total: int, *, segment: int, hop: int) -> int:
    """How many segments of `segment` samples, one every `hop`, cover `total` samples."""
    return 1 if total <= segment else 1 + -(-(total - segment) // hop)


def segment_hop(dims: Dims) -> int:
    """Samples from one segment's start to the next: what the next one hears of the one before."""
    if dims.window_samples < dims.clip_samples:
        return dims.window_samples
    return dims.clip_samples * 10 // 11  # a model whose clips are shorter than what it hears


def generated(
    pipeline: Pipeline,
    request: Request,
    conditionings: Iterable[Conditioning],
    how: Sampling,
    *,
    seed: int,
    total: int,
) -> Iterator[Samples]:
    """Pieces of a generation, `total` samples in all.

    conditionings: one per segment of a video, or one for all. Beyond one window each segment hears
    the one before through its log-mel, as the original's demo does (spec UPSTREAM §10): 10 s hop,
    what overlaps is cross-faded, seed + index.
    """
    dims, hop = pipeline.dims, segment_hop(pipeline.dims)
    count = segment_count(total, segment=dims.clip_samples, hop=hop)

    def segments() -> Iterator[Samples]:
        before: Floats | None = None
        each = iter(conditionings)
        own = next(each)
        for i in range(count):
            own = next(each, own) if i else own
            now = own if before is None else replace(own, waveform=before)
            clip = pipeline.clips([now], [nth_seed(seed, i)], how, how.progress_of(i, count))[0]
            yield clip
            heard = peak_normalised(clip)[:, :hop].mean(axis=0)
            before = fitted(heard, dims.window_samples)

    if count == 1:
        return iter([finished(request, next(segments()), dims, total)])
    return fade_join(segments(), overlap=dims.clip_samples - hop, total=total)


def edited(
    pipeline: Pipeline,
    source: Audio,
    conditioning: Conditioning,
    how: Sampling,
    *,
    seed: int,
) -> Samples:
    """An edit, as long as its source.

    A longer source is edited in windows that overlap by a second; they are normalised once joined,
    so that they keep their levels.
    """
    dims = pipeline.dims
    heard = mono(source, rate_hz=dims.sample_rate_hz)
    segment = min(dims.window_samples, dims.clip_samples)
    slack = round(_WINDOW_SLACK_S * dims.sample_rate_hz)
    if len(heard) <= min(segment + slack, dims.clip_samples):
        clip = pipeline.clips([conditioning], [seed], how, how.progress_of(0, 1))[0]
        return np.ascontiguousarray(clip[:, : len(heard)])
    overlap = min(round(_EDIT_OVERLAP_S * dims.sample_rate_hz), segment // 4)
    hop = segment - overlap
    count = segment_count(len(heard), segment=segment, hop=hop)
    raw = replace(how, normalise=False)

    def segments() -> Iterator[Samples]:
        for i in range(count):
            part = fitted(heard[i * hop : i * hop + dims.window_samples], dims.window_samples)
            now = replace(conditioning, waveform=part)
            clip = pipeline.clips([now], [nth_seed(seed, i)], raw, how.progress_of(i, count))[0]
            yield clip[:, :segment]

    joined = np.concatenate(list(fade_join(segments(), overlap=overlap, total=len(heard))), axis=1)
    return peak_normalised(joined) if how.normalise else joined


def fade_join(segments: Iterable[Samples], *, overlap: int, total: int) -> Iterator[Samples]:
    """Consecutive pieces [channels, n] of the joined segments, `total` samples in all.

    The end of a segment is held back until the next one has been faded over it.
    """
    sent, held = 0, None
    for segment in segments:
        joined = segment if held is None else cross_fade(held, segment, overlap=overlap)
        final = joined.shape[1] - overlap
        piece, held = joined[:, :final][:, : total - sent], joined[:, final:]
        sent += piece.shape[1]
        if piece.shape[1]:
            yield np.ascontiguousarray(piece)
    if held is not None and sent < total:
        yield np.ascontiguousarray(held[:, : total - sent])
