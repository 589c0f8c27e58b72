"""Words of a recording replaced in the speaker's own voice; every other sample stays as it is.

Each change is a gap in the recording, as long as the new words take at the speaker's rate. The
model hears up to one window around it with the gap's log-mel masked, and reads all words that are
said in that window; of its output only the gap is kept, and faded into the recording inside of it.
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
from omni_rt.preprocess.chat import check_text
from omni_rt.preprocess.waveform import fitted, resampled
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
    """Samples [start, stop), with words [first, last), that become `length` ones with `texts`.

    The new words start `lead` samples into the gap and end `trail` before its end: the rest is the
    neighbours' and pauses.
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
    """What the model hears: samples [start, stop) around a gap, and all words said there."""

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
    old, new = _checked(transcript, "transcript"), _checked(new_transcript, "new_transcript")
    spoken, gaps = _planned(source, old, new)
    limit = pipeline.dims.window_samples * rate // pipeline.dims.sample_rate_hz
    for gap in gaps:
        _check_fits(gap, limit, rate)
    raw, samples, bits = replace(how, normalise=False), source.samples, grid_bits(source.samples)
    for done, (i, gap) in enumerate(reversed(list(enumerate(gaps)))):  # earlier ones stay in place
        window = _window(gap, spoken, limit, samples.shape[1])
        now = _masked(condition(window.text), samples, gap, window, rate, pipeline.dims)
        progress = how.progress_of(done, len(gaps))
        (clip,) = pipeline.clips([now], [nth_seed(seed, i)], raw, progress)
        sound = _sound(clip, samples, gap, window, rate, pipeline.dims)
        faded = on_grid(_faded(sound, samples, gap, rate), bits)
        samples = np.concatenate([samples[:, : gap.start], faded, samples[:, gap.stop :]], axis=1)
        spoken = _respoken(spoken, gap)
    return SpeechEdit(samples=samples, spans=_spans(gaps, old, rate))


def _checked(text: str, what: str) -> tuple[str, ...]:
    found = words(check_text(text, what=what))
    if not found:
        raise RequestError(f"{what} holds no words")
    return found


def _planned(
    source: Audio, old: Sequence[str], new: Sequence[str]
) -> tuple[list[Spoken], list[Gap]]:
    """The words of the source and what becomes of it, from left to right."""
    found, rate = changes(old, new), source.sample_rate_hz
    if not found:
        raise RequestError("nothing to change: both transcripts have the same words")
    if sum(c.old_stop - c.old_start for c in found) == len(old):
        raise RequestError("no word of the recording would remain: use TTS with it as voice")
    texts, shift = list(old), 0  # words that stay are spelled as in the new transcript
    for change, until in pairwise([*found, Change(len(old), 0, 0, 0)]):
        shift = change.new_stop - change.old_stop
        for i in range(change.old_stop, until.old_start):
            texts[i] = new[i + shift]
    texts[: found[0].old_start] = new[: found[0].old_start]
    times = timed(old, source.samples.mean(axis=0, dtype=np.float32), rate_hz=rate)
    spoken = [
        Spoken(text, round(time.start_s * rate), round(time.stop_s * rate))
        for text, time in zip(texts, times, strict=True)
    ]
    per_weight = sum(w.stop - w.start for w in spoken) / sum(weight(w) for w in old)
    total = source.samples.shape[1]
    return spoken, [
        _gap(change, spoken, new[change.new_start : change.new_stop], per_weight, rate, total)
        for change in _merged(found, spoken, round(_LEAST_KEPT_S * rate))
    ]


def _merged(found: Sequence[Change], spoken: Sequence[Spoken], least: int) -> list[Change]:
    """Changes, of which those are one that have fewer than `least` samples of speech between."""
    out = [found[0]]
    for change in found[1:]:
        before = out[-1]
        if spoken[change.old_start - 1].stop - spoken[before.old_stop].start < least:
            out[-1] = Change(before.old_start, change.old_stop, before.new_start, change.new_stop)
        else:
            out.append(change)
    return out


def _gap(
    change: Change,
    spoken: Sequence[Spoken],
    texts: Sequence[str],
    per_weight: float,
    rate: int,
    total: int,
) -> Gap:
    """The gap of a change: its words, and at each side a margin up to the neighbour's middle."""
    before = spoken[change.old_start - 1] if change.old_start else None
    after = spoken[change.old_stop] if change.old_stop < len(spoken) else None
    old = spoken[change.old_start : change.old_stop]
    lead_pause = trail_pause = 0.0
    if old and texts:
        begin, end = old[0].start, old[-1].stop
    elif old:
        begin, end = _deleted(old, before, after)
    elif after is None:
        assert before is not None
        begin = end = before.stop
        lead_pause = pause_weight(before.text)
    elif before is None or pause_weight(before.text):  # a new phrase: the pause lies before it
        begin = end = after.start
        trail_pause = pause_weight(texts[-1])
    else:
        begin = end = before.stop
    margin = round(MARGIN_S * rate)
    start = max(begin - margin, 0 if before is None else (before.start + before.stop) // 2)
    stop = min(end + margin, total if after is None else (after.start + after.stop) // 2)
    lead = begin - start + round(lead_pause * per_weight)
    trail = stop - end + round(trail_pause * per_weight)
    said = sum(weight(w) for w in texts) + sum(pause_weight(w) for w in texts[:-1])
    return Gap(
        start=start,
        stop=stop,
        length=max(lead + round(said * per_weight) + trail, round(_LEAST_GAP_S * rate)),
        lead=lead,
        trail=trail,
        first=change.old_start,
        last=change.old_stop,
        texts=tuple(texts),
    )


def _deleted(old: Sequence[Spoken], before: Spoken | None, after: Spoken | None) -> tuple[int, int]:
    """Samples of words that go, with the shorter of the pauses beside them: one remains."""
    begin, end = old[0].start, old[-1].stop
    if after is not None and (before is None or after.start - end <= begin - before.stop):
        return begin, after.start
    assert before is not None  # some word stays
    return before.stop, end


def _check_fits(gap: Gap, limit: int, rate: int) -> None:
    if gap.length > _LARGEST_SHARE * limit:
        raise RequestError(
            f"{joined(gap.texts)[:80]!r} takes about {gap.length / rate:.1f} s, of which "
            f"{_LARGEST_SHARE * limit / rate:.1f} s fit into one window beside some of the "
            "recording: split the change into several edits"
        )


def _window(gap: Gap, spoken: Sequence[Spoken], limit: int, total: int) -> Window:
    """At most `limit` samples once the gap is filled, as many on each side, cut between words."""
    before, behind, room = gap.start, total - gap.stop, limit - gap.length
    left = min(before, max(room // 2, room - behind))
    start, stop = before - left, gap.stop + min(behind, room - left)
    first = sum(word.start < start for word in spoken[: gap.first])
    last = gap.last + sum(word.stop <= stop for word in spoken[gap.last :])
    if first:
        start = min(max(start, spoken[first - 1].stop), gap.start)
    if last < len(spoken):
        stop = max(min(stop, spoken[last].start), gap.stop)
    heard = [w.text for w in spoken[first : gap.first]], [w.text for w in spoken[gap.last : last]]
    return Window(start=start, stop=stop, text=joined([*heard[0], *gap.texts, *heard[1]]))


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
    gain = np.where(level > 0, np.clip(level / np.maximum(own, 1e-9), *_GAIN), 0)
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


def _respoken(spoken: Sequence[Spoken], gap: Gap) -> list[Spoken]:
    """The words once the gap is filled, the new ones in it by their weights."""
    begin, end = gap.start + gap.lead, gap.start + gap.length - gap.trail
    shares = np.cumsum([0.0, *(weight(text) for text in gap.texts)])
    edges = [round(begin + (end - begin) * share / max(1.0, shares[-1])) for share in shares]
    new = [Spoken(t, a, b) for t, (a, b) in zip(gap.texts, pairwise(edges), strict=True)]
    shift = gap.length - (gap.stop - gap.start)
    later = [Spoken(w.text, w.start + shift, w.stop + shift) for w in spoken[gap.last :]]
    return [*spoken[: gap.first], *new, *later]


def _spans(
    gaps: Sequence[Gap], old: Sequence[str], rate: int
) -> tuple[dict[str, str | float], ...]:
    """What was replaced: seconds in the source, words, and seconds in the result."""
    found: list[dict[str, str | float]] = []
    shift = 0
    for gap in gaps:
        at = gap.start + shift
        found.append(
            {
                "old": joined(old[gap.first : gap.last]),
                "new": joined(gap.texts),
                "from_s": gap.start / rate,
                "to_s": gap.stop / rate,
                "at_s": at / rate,
                "until_s": (at + gap.length) / rate,
            }
        )
        shift += gap.length - (gap.stop - gap.start)
    return tuple(found)
