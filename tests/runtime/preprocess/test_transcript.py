"""Words to speak → ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.errors import BundleError, RequestError
from omni_rt.preprocess.transcript import (
    FILLER,
    UNKNOWN,
    filled,
    read_vocabulary,
    spoken_text,
    transcript_ids,
)


def file_of(folder: Path, content: bytes) -> Path:
    path = folder / "vocab.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("ending", [b"\r\n", b"\n"])
@pytest.mark.parametrize("last", [True, False])
def test_a_vocabulary_line_keeps_its_spaces(tmp_path: Path, ending: bytes, last: bool) -> None:
    lines = [b" ", b"a", "é".encode(), b"ni3"]
    path = file_of(tmp_path, ending.join(lines) + (ending if last else b""))
    assert read_vocabulary(path) == {" ": 0, "a": 1, "é": 2, "ni3": 3}


@pytest.mark.parametrize("content", [b"", b"a\nb\na\n", b"\xff\xfe", b"\n\n"])
def test_a_vocabulary_is_utf8_without_repeats(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match=r"vocab\.txt"):
        read_vocabulary(file_of(tmp_path, content))


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.txt"):
        read_vocabulary(tmp_path / "none.txt")


@given(st.lists(st.integers(0, 2544), max_size=12), st.integers(0, 12))
def test_ids_are_cut_or_filled_to_length(ids: list[int], length: int) -> None:
    found = filled(ids, length)
    assert found.shape == (1, length)
    assert found.dtype == np.int64
    assert found[0].tolist() == (ids + [FILLER] * length)[:length]


@pytest.mark.parametrize("ids", [[-1], [0.0], ["a"], [True], [[1, 2]], 3, None, [1, None]])
def test_only_a_list_of_non_negative_integers_is_ids(ids: Any) -> None:
    with pytest.raises(RequestError, match="transcript ids"):
        filled(ids, 4)


def test_a_ragged_list_is_no_ids() -> None:
    with pytest.raises(RequestError, match="transcript ids"):
        filled([[1], [1, 2]], 4)  # type: ignore[list-item]


def test_unknown_characters_read_as_a_space() -> None:
    assert transcript_ids("a?", {" ": 0, "a": 1}).tolist() == [1, UNKNOWN]


def test_curly_quotes_and_semicolons_are_made_plain() -> None:
    vocabulary = {c: i for i, c in enumerate(" ,\"'ab")}
    plain = transcript_ids("a,\"b\" 'a'", vocabulary)
    assert transcript_ids("a;“b” ‘a’", vocabulary).tolist() == plain.tolist()


def test_a_lone_surrogate_reads_as_a_space() -> None:
    assert transcript_ids("\udcff", {" ": 0}).tolist() == [UNKNOWN]


@pytest.mark.parametrize(
    ("reference", "start"),
    [
        ("Hello", "Hello. "),
        ("Hello.", "Hello. "),
        ("Hello...", "Hello. "),
        ("  Hello. ", "Hello. "),
        ("wow!", "wow!. "),
        ("你好。", "你好。"),
        ("你好。 ", "你好。"),
        ("你好", "你好. "),
        ("a.b", "a.b. "),
    ],
)
def test_the_voices_words_end_in_one_full_stop(reference: str, start: str) -> None:
    assert spoken_text("world", reference) == start + "world"


@given(st.text())
def test_without_a_voice_the_prompt_is_spoken_as_it_is(prompt: str) -> None:
    assert spoken_text(prompt, None) == prompt


@given(st.text(), st.text())
def test_the_prompt_is_spoken_last_and_unchanged(prompt: str, reference: str) -> None:
    assert spoken_text(prompt, reference).endswith(prompt)
