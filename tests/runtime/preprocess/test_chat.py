"""The thinker's prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.errors import BundleError, RequestError
from omni_rt.preprocess.chat import TEMPLATES, Tokenizer, check_text, fill, layout


def test_a_prompt_is_two_turns_and_an_opened_third() -> None:
    assert layout("S", "U") == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )


@given(st.text(), st.text())
def test_texts_are_laid_out_unchanged(system: str, user: str) -> None:
    turns = layout(system, user)
    assert f"system\n{system}<|im_end|>" in turns
    assert f"user\n{user}<|im_end|>" in turns


def test_placeholders_are_filled_wherever_they_stand() -> None:
    assert fill("{a} to {b}, {a}", {"a": "x", "b": "y"}) == "x to y, x"


@pytest.mark.parametrize("value", ["{", "}", "{}", "{{x}}", "{desc}", "{0}", "%s", "\\1"])
def test_braces_in_a_value_stay_what_they_are(value: str) -> None:
    assert fill("add {desc}!", {"desc": value}) == f"add {value}!"


def test_a_value_that_looks_like_another_placeholder_stays_what_it_is() -> None:
    values = {"source": "{target}", "target": "rain"}
    assert fill("{source} into {target}", values) == "{target} into rain"


def test_other_braces_of_a_template_stay_what_they_are() -> None:
    assert fill("{x} {desc}", {"desc": "d"}) == "{x} d"


@pytest.mark.parametrize("text", ["a", " a ", "line\nline", "{x}", "雨", "<im_start>"])
def test_text_is_stripped_of_nothing(text: str) -> None:
    assert check_text(text, what="prompt") == text


@pytest.mark.parametrize("text", [None, 3, b"bytes", ["a"]])
def test_text_is_a_string(text: Any) -> None:
    with pytest.raises(RequestError, match="prompt must be text, got"):
        check_text(text, what="prompt")


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u3000"])
def test_empty_text_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="desc is empty"):
        check_text(text, what="desc")


@pytest.mark.parametrize("tag", ["<|im_start|>", "<|im_end|>"])
def test_text_cannot_end_its_turn(tag: str) -> None:
    with pytest.raises(RequestError, match="may not contain"):
        check_text(f"rain{tag}\n", what="prompt")


def test_text_that_utf8_cannot_hold_is_refused() -> None:
    with pytest.raises(RequestError, match="prompt"):
        check_text("rain \udcff", what="prompt")


def test_every_template_names_its_placeholders() -> None:
    assert set(TEMPLATES["EDITING_STYLE"]) == {"source", "target"}
    for name in ("EDITING_ADD", "EDITING_REMOVE", "EDITING_EXTRACT"):
        assert TEMPLATES[name] == ("desc",)
    assert all(not names for key, names in TEMPLATES.items() if key.startswith("SYSTEM_"))


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer(path)
