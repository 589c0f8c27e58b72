"""Words of a recording replaced in the speaker's own voice; every other sample stays as it is.

Each change is a gap in the recording, as long as the new words take at the speaker's rate. The model
hears up to one window around it with the gap's log-mel masked, and reads all words that are said in
that window; of its output only the gap is kept, and faded into the recording within the gap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from omni_rt.audio import Audio, Samples, grid_bits, on_grid
from omni_rt.encode import Conditioning
from omni_rt.errors import RequestError
from omni_rt.manifest import Dims
from omni_rt.options import Sampling, nth_seed
from omni_rt.pipeline import Pipeline
from omni_rt.preprocess.waveform import Mono, fitted, resampled
from omni_rt.preprocess.word_timing import (
    Change,
    changes,
    joined,
    pause_weight,
    timed,
    weight,
    words,
)

MARGIN_S = 0.08  # of the words beside a change, spoken again: they run into each other
FADE_S = 0.015
_LEAST_KEPT_S = 0.25  # changes with less between them are one
_LEAST_GAP_S = 0.02
_LARGEST_SHARE = 0.8  # of a window that may be new; the model was trained with 70 to 100 %
_GUARD_S = 0.02  # of real sound around what is resampled
_MEL_REACH = 2  # hops from a frame's centre to the end of what it hears (spec UPSTREAM §5)
_GAIN = (0.1, 10.0)  # ±20 dB


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word and its samples [start, stop) in the recording."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Samples [start, stop) that become `length` new ones, in which `texts` are said.

    Words [first, last) are said in them so far. The new ones start `lead` samples into the gap and
    end `trail` before its end: the rest belongs to the neighbours.
    """

    start: int
    stop: int
    length: int
    lead: int
    trail: int
    first: int
    last: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What the model hears: samples [start, gap) and (gap, stop], and all words in it."""

    start: int
    stop: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechEdit:
    """Samples at the source's rate, and for each change what was said where."""

    samples: Samples  # [channels, samples]
    spans: tuple[dict[str, str | float], ...]


def edited_speech(
    pipeline: Pipeline,
    condition: Callable[[str], Conditioning],
    source: Audio,
    *,
    transcript: str,
    new_transcript: str,
    how: Sampling,
    seed: int,
) -> SpeechEdit:
    """`source`, in which `transcript` is said, saying `new_transcript`.

    condition: the model's inputs for speaking some words, without a recording. Samples outside the
    spans are the source's bits, shifted by what earlier spans got longer; new ones lie on its
    16- or 24-bit grid. Raises RequestError if nothing or everything is to change, or too much.
    """
    rate = source.sample_rate_hz
    spoken, found = _found_changes(source, transcript, new_transcript)
    gaps = _gaps(spoken, found, words(new_transcript), rate, source.samples.shape[1])
    limit = pipeline.dims.window_samples * rate // pipeline.dims.sample_rate_hz
    for gap in gaps:
        _check_fits(gap, limit, rate)
    raw, samples, bits = replace(how, normalise=False), source.samples, grid_bits(source.samples)
    for done, (i, gap) in enumerate(reversed(list(enumerate(gaps)))):  # earlier ones stay in place
        window = _window(gap, spoken, limit, samples.shape[1])
        now = _masked(condition(window.text), samples, gap, window, rate, pipeline.dims)
        progress = how.progress_of(done, len(gaps))
        (clip,) = pipeline.clips([now], [nth_seed(seed, i)], raw, progress)
        new = _new_sound(clip, samples, gap, window, rate, pipeline.dims)
        samples = _spliced(samples, on_grid(_faded(new, samples, gap, rate), bits), gap)
        spoken = _respoken(spoken, gap)
    return SpeechEdit(samples=samples, spans=_spans(gaps, found, words(transcript), rate))
