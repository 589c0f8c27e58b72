"""Words of a recording replaced in the speaker's own voice; every other sample stays as it is.

Each change is a gap in the recording, as long as the new words take at the speaker's rate. The
model hears up to one window around it with the gap's log-mel masked, and reads all words that are
said in that window; of its output only the gap is kept, and faded into the recording inside of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from omni_rt.audio import Audio, Samples, grid_bits, on_grid
from omni_rt.encode import Conditioning
from omni_rt.errors import RequestError
from omni_rt.manifest import Dims
from omni_rt.options import Sampling, nth_seed
from omni_rt.pipeline import Pipeline
from omni_rt.preprocess.chat import check_text
from omni_rt.preprocess.speech_gaps import (
    Gap,
    Window,
    check_fits,
    planned,
    respoken,
    spans_of,
    window_around,
)
from omni_rt.preprocess.waveform import fitted, resampled
from omni_rt.preprocess.word_timing import words

FADE_S = 0.015
_GUARD_S = 0.02  # of real sound around what is resampled
_MEL_REACH = 2  # hops from a frame's centre to the end of what it hears (spec UPSTREAM §5)
_GAIN = (0.1, 10.0)  # ±20 dB


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
    rate, dims = int(source.sample_rate_hz), pipeline.dims
    old, new = _checked(transcript, "transcript"), _checked(new_transcript, "new_transcript")
    spoken, gaps = planned(source, old, new)
    limit = min(dims.window_samples, dims.clip_samples) * rate // dims.sample_rate_hz
    for gap in gaps:
        check_fits(gap, limit, rate)
    raw, samples, bits = replace(how, normalise=False), source.samples, grid_bits(source.samples)
    for done, (i, gap) in enumerate(reversed(list(enumerate(gaps)))):  # earlier ones stay in place
        window = window_around(gap, spoken, limit, samples.shape[1])
        now = _masked(condition(window.text), samples, gap, window, rate, dims)
        progress = how.progress_of(done, len(gaps))
        (clip,) = pipeline.clips([now], [nth_seed(seed, i)], raw, progress)
        sound = _sound(clip, samples, gap, window, rate, dims)
        faded = on_grid(_faded(sound, samples, gap, rate), bits)
        samples = np.concatenate([samples[:, : gap.start], faded, samples[:, gap.stop :]], axis=1)
        spoken = respoken(spoken, gap)
    return SpeechEdit(samples=samples, spans=spans_of(gaps, old, rate))


def _checked(text: str, what: str) -> tuple[str, ...]:
    found = words(check_text(text, what=what))
    if not found:
        raise RequestError(f"{what} holds no words")
    return found


def _masked(
    words_only: Conditioning, samples: Samples, gap: Gap, window: Window, rate: int, dims: Dims
) -> Conditioning:
    """The model's inputs: the recording around a silent gap, whose log-mel frames are masked.

    Masked is every frame that hears any of the gap, so that all others are the recording's own.
    """
    to = dims.sample_rate_hz
    before = _part(samples, window.start, gap.start, from_hz=rate, to_hz=to).mean(axis=0)
    after = _part(samples, gap.stop, window.stop, from_hz=rate, to_hz=to).mean(axis=0)
    silent = np.zeros(round(gap.length * to / rate), np.float32)
    hop = dims.window_samples // (dims.mel_frames - 1)
    centres = np.arange(dims.mel_frames) * hop
    start, stop = len(before), len(before) + len(silent)
    return replace(
        words_only,
        waveform=fitted(np.concatenate([before, silent, after]), dims.window_samples),
        mel_keep=(centres + _MEL_REACH * hop <= start) | (centres - _MEL_REACH * hop >= stop),
    )


def _part(samples: Samples, start: int, stop: int, *, from_hz: int, to_hz: int) -> Samples:
    """Samples [start, stop) at another rate, resampled with some of what lies around them."""
    guard = round(_GUARD_S * from_hz)
    first = max(0, start - guard)
    out = resampled(samples[:, first : stop + guard], from_hz=from_hz, to_hz=to_hz)
    skipped = round((start - first) * to_hz / from_hz)
    return fitted(out[:, skipped:], round((stop - start) * to_hz / from_hz))


def _sound(
    clip: Samples, samples: Samples, gap: Gap, window: Window, rate: int, dims: Dims
) -> Samples:
    """The gap of a clip [channels, gap.length], as loud in each channel as the recording.

    The model hears one channel, so its own stereo image says nothing: its mean goes into all. The
    level is that of the recording around the gap over what the model made of the same.
    """
    made_hz = dims.sample_rate_hz
    made = clip.mean(axis=0, keepdims=True)
    start, stop, end = (
        round(n * made_hz / rate)
        for n in (
            gap.start - window.start,
            gap.start - window.start + gap.length,
            gap.start - window.start + gap.length + window.stop - gap.stop,
        )
    )
    new = fitted(_part(made, start, stop, from_hz=made_hz, to_hz=rate), gap.length)
    theirs = [samples[:, window.start : gap.start], samples[:, gap.stop : window.stop]]
    level = _rms(np.concatenate(theirs, axis=1))
    own = _rms(np.concatenate([made[:, :start], made[:, stop:end]], axis=1))
    loudest = max(1e-9, float(level.max()))
    gain = np.clip(loudest / max(1e-9, float(own[0])), *_GAIN) * level / loudest
    out: Samples = (gain[:, None] * new).astype(np.float32)
    return out / max(1.0, float(np.abs(out).max(initial=0.0)))


def _rms(samples: Samples) -> NDArray[np.float64]:
    """Of each channel; of nothing 0."""
    power = (samples.astype(np.float64) ** 2).sum(axis=1) / max(1, samples.shape[1])
    return np.asarray(np.sqrt(power))


def _faded(sound: Samples, samples: Samples, gap: Gap, rate: int) -> Samples:
    """New sound with the recording's own faded out at its start and in at its end.

    Equal power, since they are not in phase. All of it lies within the gap.
    """
    fade = min(round(FADE_S * rate), gap.length // 2)
    rise = np.sin(np.pi / 2 * (np.arange(fade) + 0.5) / fade).astype(np.float32)
    out = sound.copy()
    head = fitted(samples[:, gap.start : gap.start + fade], fade)
    out[:, :fade] = sound[:, :fade] * rise + head * rise[::-1]
    tail = samples[:, max(0, gap.stop - fade) : gap.stop]
    out[:, gap.length - fade :] *= rise[::-1]
    out[:, gap.length - tail.shape[1] :] += tail * rise[fade - tail.shape[1] :]
    return np.clip(out, -1.0, 1.0)
