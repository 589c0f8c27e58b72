"""Two transcripts → the fewest words that differ, apart from case and punctuation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_rt.preprocess.word_timing import plain


@dataclass(frozen=True, slots=True)
class Change:
    """Words [old_start, old_stop) that become words [new_start, new_stop); either may be none."""

    old_start: int
    old_stop: int
    new_start: int
    new_stop: int


def changes(old: Sequence[str], new: Sequence[str]) -> list[Change]:
    """Where two lists of words differ; empty if nowhere.

    By edit distance, a word replaced counting as much as one added or left out: so a word changed
    in a text that repeats itself is that word, and not a shift of all that follows.
    """
    a, b = [plain(word) for word in old], [plain(word) for word in new]
    distance = _distances(a, b)
    i, j = len(a), len(b)
    differing: list[Change] = []
    while i or j:
        here = distance[i, j]
        if i and j and here == distance[i - 1, j - 1] + (a[i - 1] != b[j - 1]):
            i, j, same = i - 1, j - 1, a[i - 1] == b[j - 1]
            step = Change(i, i + 1, j, j + 1)
        elif i and here == distance[i - 1, j] + 1:
            i, same = i - 1, False
            step = Change(i, i + 1, j, j)
        else:
            j, same = j - 1, False
            step = Change(i, i, j, j + 1)
        if not same:
            differing.append(step)
    return _joined(differing[::-1])


def _distances(a: Sequence[str], b: Sequence[str]) -> NDArray[np.int32]:
    """[i, j]: how many words must change to make the first j of b of the first i of a."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys([*a, *b]))}
    wanted = np.array([numbers[word] for word in b], np.int64)
    along = np.arange(len(b) + 1, dtype=np.int32)
    rows = np.empty((len(a) + 1, len(b) + 1), np.int32)
    rows[0] = along
    for i, word in enumerate(a):
        above = rows[i]
        best = above + 1
        best[1:] = np.minimum(best[1:], above[:-1] + (wanted != numbers[word]))
        rows[i + 1] = np.minimum.accumulate(best - along) + along  # then words of b are added
    return rows


def _joined(steps: Sequence[Change]) -> list[Change]:
    """Changes that touch are one."""
    out: list[Change] = []
    for step in steps:
        if out and out[-1].old_stop == step.old_start and out[-1].new_stop == step.new_start:
            out[-1] = Change(out[-1].old_start, step.old_stop, out[-1].new_start, step.new_stop)
        else:
            out.append(step)
    return out
