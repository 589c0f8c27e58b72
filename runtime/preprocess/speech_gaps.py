"""What is to change in a spoken recording → gaps, and what is heard around each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from omni_rt.audio import Audio
from omni_rt.errors import RequestError
from omni_rt.preprocess.word_changes import Change, changes
from omni_rt.preprocess.word_timing import (
    joined,
    pause_weight,
    timed,
    weight,
)

MARGIN_S = 0.08  # of the words beside a change, spoken again: they run into each other
_LEAST_KEPT_S = 0.25  # changes with less between them are one
_LEAST_GAP_S = 0.02
_LARGEST_SHARE = 0.8  # of a window that may be new; the model was trained with 70 to 100 %


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


def planned(
    source: Audio, old: Sequence[str], new: Sequence[str]
) -> tuple[list[Spoken], list[Gap]]:
    """The words of the source and what becomes of it, from left to right."""
    found, rate = changes(old, new), int(source.sample_rate_hz)
    if not found:
        raise RequestError("nothing to change: both transcripts have the same words")
    texts = list(old)  # words that stay are spelled as in the new transcript
    ends = [Change(0, 0, 0, 0), *found, Change(len(old), len(old), len(new), len(new))]
    for a, b in pairwise(ends):
        texts[a.old_stop : b.old_start] = new[a.new_stop : b.new_start]
    times = timed(old, source.samples.mean(axis=0, dtype=np.float32), rate_hz=rate)
    spoken = [
        Spoken(text, round(time.start_s * rate), round(time.stop_s * rate))
        for text, time in zip(texts, times, strict=True)
    ]
    found = _merged(found, spoken, round(_LEAST_KEPT_S * rate))
    if sum(change.old_stop - change.old_start for change in found) == len(old):
        raise RequestError("no word of the recording would remain: use TTS with it as voice")
    per_weight = sum(w.stop - w.start for w in spoken) / sum(weight(w) for w in old)
    total = source.samples.shape[1]
    return spoken, [
        _gap(change, spoken, new[change.new_start : change.new_stop], per_weight, rate, total)
        for change in found
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
    begin, end, pauses = _place(old, before, after, texts)
    margin = round(MARGIN_S * rate)
    start = max(begin - margin, 0 if before is None else (before.start + before.stop) // 2)
    stop = min(end + margin, total if after is None else (after.start + after.stop) // 2)
    lead = begin - start + round(pauses[0] * per_weight)
    trail = stop - end + round(pauses[1] * per_weight)
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


def _place(
    old: Sequence[Spoken], before: Spoken | None, after: Spoken | None, texts: Sequence[str]
) -> tuple[int, int, tuple[float, float]]:
    """Samples [begin, end) that go for new words, and weights of pauses to put around these."""
    if old and texts:
        return old[0].start, old[-1].stop, (0.0, 0.0)
    if old:  # words that go take the shorter of the pauses beside them along: one remains
        begin, end = old[0].start, old[-1].stop
        if after is not None and (before is None or after.start - end <= begin - before.stop):
            return begin, after.start, (0.0, 0.0)
        assert before is not None  # some word stays
        return before.stop, end, (0.0, 0.0)
    if after is None:
        assert before is not None
        return before.stop, before.stop, (pause_weight(before.text), 0.0)
    if before is None or pause_weight(before.text):  # a new phrase: the pause lies before it
        return after.start, after.start, (0.0, pause_weight(texts[-1]))
    return before.stop, before.stop, (0.0, 0.0)


def check_fits(gap: Gap, limit: int, rate: int) -> None:
    if gap.length > _LARGEST_SHARE * limit:
        raise RequestError(
            f"{joined(gap.texts)[:80]!r} takes about {gap.length / rate:.1f} s, of which "
            f"{_LARGEST_SHARE * limit / rate:.1f} s fit into one window beside some of the "
            "recording: split the change into several edits"
        )


def window_around(gap: Gap, spoken: Sequence[Spoken], limit: int, total: int) -> Window:
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


def respoken(spoken: Sequence[Spoken], gap: Gap) -> list[Spoken]:
    """The words once the gap is filled, the new ones in it by their weights."""
    begin, end = gap.start + gap.lead, gap.start + gap.length - gap.trail
    shares = np.cumsum([0.0, *(weight(text) for text in gap.texts)])
    edges = [round(begin + (end - begin) * share / max(1.0, shares[-1])) for share in shares]
    new = [Spoken(t, a, b) for t, (a, b) in zip(gap.texts, pairwise(edges), strict=True)]
    shift = gap.length - (gap.stop - gap.start)
    later = [Spoken(w.text, w.start + shift, w.stop + shift) for w in spoken[gap.last :]]
    return [*spoken[: gap.first], *new, *later]


def spans_of(
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
