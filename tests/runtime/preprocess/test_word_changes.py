"""What differs between two transcripts: the fewest words that turn one into the other."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.preprocess.word_changes import Change, changes
from omni_rt.preprocess.word_timing import words


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("a b c", "a x c", [Change(1, 2, 1, 2)]),
        ("a b c", "a b x y c", [Change(2, 2, 2, 4)]),
        ("a b c", "a c", [Change(1, 2, 1, 1)]),
        ("a b c", "x b y", [Change(0, 1, 0, 1), Change(2, 3, 2, 3)]),
        ("Hello, world.", "hello WORLD!", []),
        ("我去北京", "我去上海", [Change(2, 4, 2, 4)]),
    ],
)
def test_changes_are_found_word_by_word(old: str, new: str, found: list[Change]) -> None:
    assert changes(words(old), words(new)) == found


some_words = st.lists(st.sampled_from("abcde"), max_size=12)


@given(some_words, some_words)
def test_changes_turn_the_old_words_into_the_new(old: list[str], new: list[str]) -> None:
    found, made, at = changes(old, new), [], 0
    for change in found:
        made += [*old[at : change.old_start], *new[change.new_start : change.new_stop]]
        at = change.old_stop
    assert [*made, *old[at:]] == new
    assert all(a.old_stop < b.old_start for a, b in pairwise(found))


def fewest(old: tuple[str, ...], new: tuple[str, ...]) -> int:
    """Edit distance by its definition."""

    @lru_cache(None)
    def between(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        replaced = between(i - 1, j - 1) + (old[i - 1] != new[j - 1])
        return min(replaced, between(i - 1, j) + 1, between(i, j - 1) + 1)

    return between(len(old), len(new))


@given(some_words, some_words)
def test_no_fewer_words_would_do(old: list[str], new: list[str]) -> None:
    sizes = [(c.old_stop - c.old_start, c.new_stop - c.new_start) for c in changes(old, new)]
    assert sum(max(size) for size in sizes) == fewest(tuple(old), tuple(new))


def test_a_word_changed_in_a_refrain_is_that_word() -> None:
    refrain = ["hello", "there", "my", "friend"] * 8
    changed = [*refrain[:3], "enemy", *refrain[4:]]
    assert changes(refrain, changed) == [Change(3, 4, 3, 4)]
