"""Words of a transcript: which ones changed, and where in the recording each is spoken.

There is no forced aligner: times are estimated from the levels of the recording. Pauses lie between
words (rather at punctuation marks), the words of a chunk between two pauses share its time by their
rough lengths, and their boundaries move to where the level dips. Nothing is recognised: a wrong
transcript is only noticed if it has far too few or too many words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from omni_rt.errors import RequestError
from omni_rt.preprocess.waveform import Mono

Values = NDArray[np.float64]
Frames = NDArray[np.int64]

_HOP_S = 0.010
_PAUSE_S = 0.15  # closures within words are shorter
_PEAK_FRAMES = 12  # a dip is as deep as it lies under the loudest frame within 120 ms
_REACH_FRAMES = 20  # a boundary lies at most so far from where the words' lengths put it
_SPREAD = 0.4  # standard deviation of the logarithm of a word's length over its expectation
_DIP_GAIN = 1.5  # log-likelihood that a boundary gains in a dip of 20 dB
_LAST_WORD = 1.25  # words before a pause are drawn out
_UNMARKED_PAUSE = 3.0  # log-likelihood that a pause loses where there is no punctuation
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
_STOPS = (".", "!", "?", "…", "。", "！", "？")
_COMMAS = (",", ";", ":", "—", "–", " -", "，", "、", "；", "：")
_CLOSING = "\"'”’」』)]）》 "
_VOWELS = re.compile(r"[aeiouyаеёиоуыэюяіїєαεηιουω]+")
_CONSONANTS = re.compile(r"sch|ch|ck|gh|ng|ph|sh|th|wh|qu|(\w)\1|\w")
_SILENT_E = re.compile(r"(?<=[^aeiouyl\W])e$")


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


def weight(word: str) -> float:
    """How long a word is spoken, roughly: 1 for a syllable's vowels, 0.4 for a consonant.

    A Han character, a kana or a Korean syllable counts 1.7; a digit, which is read out, 2.5.
    """
    folded = unicodedata.normalize("NFKC", plain(word))
    digits = sum(c.isdecimal() for c in folded)
    syllables = sum(unicodedata.east_asian_width(c) == "W" for c in folded)
    spelled = "".join(
        c
        for c in unicodedata.normalize("NFKD", folded)
        if c.isalpha() and unicodedata.east_asian_width(c) != "W" and not "\u1100" <= c <= "\u11ff"
    )
    spelled = _SILENT_E.sub("", spelled) if len(spelled) > 2 else spelled
    vowels = len(_VOWELS.findall(spelled))
    consonants = sum(1 for _ in _CONSONANTS.finditer(_VOWELS.sub(" ", spelled)))
    return max(1.0, vowels + 0.4 * consonants + 2.5 * digits + 1.7 * syllables)


def pause_weight(word: str) -> float:
    """How long the pause behind a word is by its punctuation, in the same unit; 0 without."""
    marks = word.rstrip(_CLOSING)
    return 3.0 if marks.endswith(_STOPS) else 1.5 if marks.endswith(_COMMAS) else 0.0


def timed(spoken: Sequence[str], speech: Mono, *, rate_hz: int) -> list[WordTime]:
    """When each of `spoken` is said in a recording [samples], in order and without overlap.

    Raises RequestError if it holds no speech, or not for so few or so many words.
    """
    levels = _levels(speech, rate_hz)
    chunks = _chunks(levels)
    weights = np.array([weight(word) for word in spoken])
    lengths = np.array([stop - start for start, stop in chunks]) * _HOP_S
    low, high = _SECONDS_PER_WEIGHT
    if not low <= lengths.sum() / weights.sum() <= high:
        raise RequestError(
            f"the transcript has {len(spoken)} words, the recording {lengths.sum():.2f} s of "
            "speech: are they its words?"
        )
    marks = np.array([pause_weight(word) for word in spoken])
    found: list[WordTime] = []
    for (start, stop), count in zip(chunks, _shared_out(lengths, weights, marks), strict=True):
        own = weights[len(found) : len(found) + count]
        edges = start + _boundaries(levels[start:stop], own) if count else ()
        found += [WordTime(_seconds(a), _seconds(b)) for a, b in pairwise(edges)]
    return found


def _seconds(hops: int) -> float:
    """Divided, not multiplied: rounded once, so never beyond the end of the recording."""
    return int(hops) / round(1 / _HOP_S)


def _levels(speech: Mono, rate_hz: int) -> Values:
    """dB of full scale, of every 10 ms."""
    edges = np.arange(0, len(speech) + 1, rate_hz * _HOP_S).astype(np.int64)
    if len(edges) < 2:
        raise RequestError("no speech in the recording: it is too short")
    power = (speech - speech.mean(dtype=np.float64)) ** 2
    sums = np.concatenate([[0.0], np.cumsum(power, dtype=np.float64)])[edges]
    return np.asarray(
        10 * np.log10(np.maximum(np.diff(sums) / np.maximum(np.diff(edges), 1), 1e-12))
    )


def _chunks(levels: Values) -> list[tuple[int, int]]:
    """Frames [start, stop) of what is said without a pause."""
    top = levels.max()
    if top < _QUIET_DB:
        raise RequestError("no speech in the recording: it is silent")
    loud = np.percentile(levels[levels > top - 50], 95)
    floor = np.percentile(levels, 5)  # of a noisy recording
    active = np.flatnonzero(levels >= max(loud - 35, floor + 0.3 * (loud - floor)))
    breaks = np.flatnonzero(np.diff(active) > _PAUSE_S / _HOP_S)
    starts, stops = active[[0, *(breaks + 1)]], active[[*breaks, -1]] + 1
    return [(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]


def _shared_out(lengths: Values, weights: Values, marks: Values) -> list[int]:
    """How many words each chunk has: the likeliest by its length and by where pauses lie.

    lengths: of the chunks in seconds. weights, marks: of the words and of the pauses behind them.
    A dynamic program over chunks; `best[n]` is the cost of the first n words in those so far.
    """
    words_in_all, rate = len(weights), lengths.sum() / weights.sum()
    due = np.concatenate([[0.0], np.cumsum(weights)]) * rate
    passed = np.concatenate([[0.0], np.cumsum(marks)])  # cost of marks without a pause
    broken = np.concatenate([[0.0], np.where(marks > 0, 0.0, _UNMARKED_PAUSE)])
    broken[-1] = 0.0
    best = np.full(words_in_all + 1, np.inf)
    best[0] = 0.0
    choices = []
    for length in lengths:
        now = best + length**2 / 0.01  # no word: a breath, a click
        choice = np.zeros(words_in_all + 1, np.int32)
        most = min(words_in_all, round(2 * length / (rate * weights.mean())) + 8)
        for n in range(1, most + 1):
            expected = due[n:] - due[:-n]
            misfit = (length - expected) ** 2 / (0.1 * expected + 0.01)
            cost = best[:-n] + misfit + (passed[n - 1 : -1] - passed[:-n]) + broken[n:]
            better = cost < now[n:]
            now[n:][better], choice[n:][better] = cost[better], n
        best = now
        choices.append(choice)
    counts: list[int] = []
    for choice in reversed(choices):
        counts.append(int(choice[words_in_all - sum(counts)]))
    return counts[::-1]


def _boundaries(levels: Values, weights: Values) -> Frames:
    """Frames [words + 1] at which the words of a chunk begin, and at which the last one ends.

    The likeliest by the words' lengths and the level at each boundary (Viterbi).
    """
    length = len(levels)
    shares = weights * np.where(np.arange(len(weights)) == len(weights) - 1, _LAST_WORD, 1.0)
    due = shares / shares.sum() * length
    padded = np.pad(levels, _PEAK_FRAMES, mode="edge")
    peaks = np.lib.stride_tricks.sliding_window_view(padded, 2 * _PEAK_FRAMES + 1).max(axis=1)
    gain = np.append(_DIP_GAIN * np.clip((peaks - levels) / 20, 0.0, 1.0), 0.0)
    offsets = np.arange(-_REACH_FRAMES, _REACH_FRAMES + 1)
    places = np.round(np.cumsum(due)[:-1]).astype(np.int64)
    inner = [np.clip(place + offsets, 0, length) for place in places]
    candidates = [np.array([0]), *inner, np.array([length])]
    cost, backs = np.zeros(1), []
    for (at, to), expected in zip(pairwise(candidates), due, strict=True):
        lasted = np.maximum(to[None, :] - at[:, None], 0.1)
        total = cost[:, None] + np.log(lasted / expected) ** 2 / (2 * _SPREAD**2)
        backs.append(total.argmin(axis=0))
        cost = total.min(axis=0) - gain[to]
    index, edges = 0, [length]
    for at, back in zip(candidates[-2::-1], reversed(backs), strict=True):
        index = int(back[index])
        edges.append(int(at[index]))
    return np.maximum.accumulate(np.array(edges[::-1]))
