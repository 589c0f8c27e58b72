"""Words of a transcript: which ones changed, and where in the recording each is spoken.

No aligner is at hand, so the timing is estimated: words share the time in which there is sound by
their rough length in syllables, pauses lie between words, and boundaries move into dips of level.
Typical errors are 50 to 100 ms, more where somebody hesitates, laughs or stretches a word.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_rt.errors import RequestError
from omni_rt.preprocess.waveform import Mono

Levels = NDArray[np.float64]

_HOP_S = 0.010
_PAUSE_S = 0.15  # closures within words are shorter
_REACH_S = 0.2  # a boundary is sought this far from where the words' lengths put it
_DIP_WEIGHT = 0.5  # what a boundary at full level costs, against 1 for a word 1.5 times too long
_LAST_WORD = 1.25  # words before a pause are drawn out
_QUIET_DB = -70.0  # of full scale: nobody speaks
_SECONDS_PER_WEIGHT = (0.03, 0.8)  # outside of this nobody speaks these words

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u3096\u30a1-\u30fa"
_KANA_TAIL = "ーぁぃぅぇぉゃゅょァィゥェォャュョ"
_OPENING = "([{<«“‘「『（《〈【¿¡"
# a character that is a word, and the marks behind it; or a run up to the next such character
_PIECE = re.compile(
    rf"[{_HAN}{_KANA}][{_KANA_TAIL}]*[^\w\s{re.escape(_OPENING)}]*|(?:(?![{_HAN}{_KANA}])\S)+"
)
_NUCLEI = re.compile(r"[aeiouyаеёиоуыэюяіїєαεηιουω]+")
_CONSONANTS = re.compile(r"sch|ch|ck|gh|ng|ph|sh|th|wh|qu|(\w)\1|\w")


@dataclass(frozen=True, slots=True)
class Change:
    """Words [old_start, old_stop) become [new_start, new_stop) of the other transcript."""

    old_start: int
    old_stop: int
    new_start: int
    new_stop: int


@dataclass(frozen=True, slots=True)
class WordTime:
    """When a word is spoken; pauses lie between words."""

    start_s: float
    stop_s: float


def words(text: str) -> tuple[str, ...]:
    """Words with their punctuation. Each Han character and kana is one of its own."""
    found: list[str] = []
    carried = ""  # opening marks wait for their word
    for chunk in text.split():
        gap = " "  # before a mark that stands by itself
        for piece in _PIECE.findall(chunk):
            if plain(piece):
                found.append(carried + piece)
                carried = ""
            elif not found or piece[0] in _OPENING:
                carried += piece
            else:
                found[-1] += gap + piece
            gap = ""
    return tuple(found)


def joined(parts: Sequence[str]) -> str:
    """Words as a text: spaces between them, but none beside a Han character or kana."""
    text = ""
    for part in parts:
        tight = not text or _is_alone(text[-1]) or _is_alone(part[0])
        text += part if tight else f" {part}"
    return text


def _is_alone(character: str) -> bool:
    wide = unicodedata.east_asian_width(character) in "WF"
    return wide and not "\uac00" <= character <= "\ud7a3"  # Korean is written with spaces


def plain(word: str) -> str:
    """A word without case, width and punctuation: how two are compared."""
    folded = unicodedata.normalize("NFKC", word).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] in "LNM")


def changes(old: Sequence[str], new: Sequence[str]) -> list[Change]:
    """Where two lists of words differ, apart from case and punctuation; empty if nowhere."""
    matcher = difflib.SequenceMatcher(
        None, [plain(w) for w in old], [plain(w) for w in new], autojunk=False
    )
    return [Change(*spans) for tag, *spans in matcher.get_opcodes() if tag != "equal"]


def weight(word: str) -> float:
    """How long a word is spoken, roughly: 1 for a syllable's vowels, 0.4 for a consonant."""
    letters = "".join(
        c for c in unicodedata.normalize("NFKD", plain(word)) if not unicodedata.combining(c)
    )
    digits = sum(c.isdecimal() for c in letters)
    alone = sum(_is_alone(c) for c in letters)
    spelled = "".join(c for c in letters if not c.isdecimal() and not _is_alone(c))
    if spelled.isascii() and len(spelled) > 2 and spelled[-1] == "e" and spelled[-2] not in "aeiouyl":
        spelled = spelled[:-1]  # silent
    nuclei = _NUCLEI.findall(spelled)
    consonants = sum(1 for _ in _CONSONANTS.finditer(_NUCLEI.sub(" ", spelled)))
    return max(1.0, len(nuclei) + 0.4 * consonants) if spelled and not (digits or alone) else (
        len(nuclei) + 0.4 * consonants + 2.5 * digits + 1.7 * alone
    )


def pause_weight(word: str) -> float:
    """How long the pause behind a word is likely to be, in the same unit."""
    tail = word.rstrip("\"'”’」』)]）》 ")
    if tail.endswith((".", "!", "?", "…", "。", "！", "？")):
        return 3.0
    return 1.5 if tail.endswith((",", ";", ":", "—", "–", " -", "，", "、", "；", "：")) else 0.0


def timed(spoken: Sequence[str], speech: Mono, *, rate_hz: int) -> list[WordTime]:
    """When each of `spoken` is said in a recording [samples], in order and without overlap.

    Raises RequestError if it holds no speech, or not for so few or so many words.
    """
    levels = _levels(speech, rate_hz)
    chunks = _chunks(levels)
    weights = np.array([weight(word) for word in spoken])
    counts = _shared_out(chunks, weights, spoken)
    found: list[WordTime] = []
    for (start, stop), count in zip(chunks, counts, strict=True):
        own = weights[len(found) : len(found) + count]
        edges = start + _boundaries(levels[start:stop], own)
        found += [WordTime(a * _HOP_S, b * _HOP_S) for a, b in zip(edges, edges[1:])]
    return found


def _levels(speech: Mono, rate_hz: int) -> Levels:
    """dB of full scale, of every 10 ms."""
    hop = rate_hz * _HOP_S
    count = max(1, int(len(speech) / hop))
    edges = np.round(np.arange(count + 1) * hop).astype(np.int64)
    power = (speech - speech.mean(dtype=np.float64)) ** 2 if len(speech) else np.zeros(1)
    sums = np.concatenate([[0.0], np.cumsum(power, dtype=np.float64)])
    edges = np.minimum(edges, len(power))
    mean = (sums[edges[1:]] - sums[edges[:-1]]) / np.maximum(np.diff(edges), 1)
    return np.asarray(10 * np.log10(np.maximum(mean, 1e-12)))


def _chunks(levels: Levels) -> list[tuple[int, int]]:
    """Frames [start, stop) of what is said without a pause."""
    top = levels.max()
    if top < _QUIET_DB:
        raise RequestError("no speech in the recording: it is silent")
    loud = np.percentile(levels[levels > top - 50], 95)
    floor = np.percentile(levels, 5)
    threshold = max(loud - 35, min(floor + 0.3 * (loud - floor), loud - 20))
    active = np.flatnonzero(levels > threshold)
    breaks = np.flatnonzero(np.diff(active) > round(_PAUSE_S / _HOP_S))
    starts = active[np.concatenate([[0], breaks + 1])]
    stops = active[np.concatenate([breaks, [len(active) - 1]])] + 1
    return [(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]


def _shared_out(
    chunks: Sequence[tuple[int, int]], weights: Levels, spoken: Sequence[str]
) -> list[int]:
    """How many words each chunk has: by their lengths, pauses rather at punctuation marks."""
    lengths = np.array([b - a for a, b in chunks]) * _HOP_S
    rate = lengths.sum() / weights.sum()
    low, high = _SECONDS_PER_WEIGHT
    if not low <= rate <= high:
        raise RequestError(
            f"the transcript has {len(spoken)} words, the recording {lengths.sum():.2f} s of "
            "speech: are they its words?"
        )
    total = len(spoken)
    due = np.concatenate([[0.0], np.cumsum(weights * rate)])
    marks = np.array([pause_weight(word) for word in spoken])
    skipped = np.concatenate([[0.0], np.cumsum(marks)])  # cost of marks without a pause
    unmarked = np.concatenate([[0.0], np.where(marks > 0, 0.0, 3.0)])
    unmarked[-1] = 0.0
    best = np.full(total + 1, np.inf)
    best[0] = 0.0
    choices = []
    for length in lengths:
        now, choice = best + length**2 / 0.01, np.zeros(total + 1, np.int32)
        for count in range(1, min(total, round(2 * length / rate / weights.mean()) + 8) + 1):
            expected = due[count:] - due[:-count]
            inside = skipped[count - 1 : -1] - skipped[:-count]
            cost = (length - expected) ** 2 / (0.1 * expected + 0.01) + inside + unmarked[count:]
            sum_ = best[:-count] + cost
            better = sum_ < now[count:]
            now[count:][better], choice[count:][better] = sum_[better], count
        best = now
        choices.append(choice)
    counts, left = [], total
    for choice in reversed(choices):
        counts.append(int(choice[left]))
        left -= counts[-1]
    assert left == 0
    return counts[::-1]


def _boundaries(levels: Levels, weights: Levels) -> NDArray[np.int64]:
    """Frames [words + 1] at which the words of a chunk begin, and its end."""
    count, length = len(weights), len(levels)
    if count == 0:
        return np.zeros(0, np.int64)
    shares = weights.copy()
    if count > 1:
        shares[-1] *= _LAST_WORD
    due = shares / shares.sum() * length
    places = np.cumsum(due)[:-1]
    reach = round(_REACH_S / _HOP_S)
    offsets = np.arange(-reach, reach + 1)
    peaks = np.array([levels[max(0, i - 12) : i + 13].max() for i in range(length)])
    depth = np.clip((peaks - levels) / 20, 0, 1)
    dips = np.concatenate([depth, [1.0]])
    at, cost = np.zeros(1), np.zeros(1)
    trail = []
    for k in range(count):
        to = np.clip(np.round(places[k]) + offsets, 0, length) if k < count - 1 else np.array([length])
        lasted = np.maximum(to[None, :] - at[:, None], 0.25)
        total = cost[:, None] + np.log(lasted / due[k]) ** 2 / (2 * 0.4**2)
        if k < count - 1:
            total = total - _DIP_WEIGHT * dips[to.astype(np.int64)][None, :]
        back = total.argmin(axis=0)
        trail.append((at, back))
        cost, at = total[back, np.arange(len(to))], to
    edges = [length]
    index = 0
    for at, back in reversed(trail):
        index = int(back[index])
        edges.append(int(at[index]))
    return np.array(edges[::-1])
