"""Requests → the thinker's prompt: templates, chat layout, token ids (spec UPSTREAM §8)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_rt.errors import BundleError, RequestError

# Names of the upstream templates, with the placeholders each must have.
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "SYSTEM_T2A": (),
    "SYSTEM_T2M": (),
    "SYSTEM_TTS": (),
    "SYSTEM_V2A": (),
    "SYSTEM_V2M": (),
    "SYSTEM_EDITING": (),
    "SYSTEM_UNDERSTANDING": (),
    "EDITING_ADD": ("desc",),
    "EDITING_REMOVE": ("desc",),
    "EDITING_EXTRACT": ("desc",),
    "EDITING_STYLE": ("source", "target"),
}

_TURN_START, _TURN_END = "<|im_start|>", "<|im_end|>"
STOP_TOKENS = (_TURN_END, "<|endoftext|>")
AUDIO_TAG = "<|audio_bos|><|AUDIO|><|audio_eos|>"
VIDEO_TAG = "<|vision_bos|><|VIDEO|><|vision_eos|>"
_SPECIAL_TOKEN = re.compile(r"<\|\w+\|>")


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its {placeholders} replaced; braces in the values stay what they are."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)


def layout(system: str, user: str) -> str:
    """A system turn, a user turn, and an opened assistant turn."""
    return conversation(system, (), user)


def conversation(system: str, turns: Sequence[tuple[str, str]], user: str) -> str:
    """A system turn, past turns of user and assistant, a user turn, an opened assistant turn."""
    said = [("system", system)]
    for question, answer in turns:
        said += [("user", question), ("assistant", answer)]
    said.append(("user", user))
    closed = "".join(f"{_TURN_START}{role}\n{text}{_TURN_END}\n" for role, text in said)
    return f"{closed}{_TURN_START}assistant\n"


class Tokenizer:
    """The thinker's `tokenizer.json`."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Loaded

        try:
            self._loaded = Loaded.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise BundleError(f"{path.name} is not a tokenizer: {error}") from error

    def encode(self, text: str) -> NDArray[np.int64]:
        """Ids [n] of a prompt, special tokens recognised, nothing added."""
        return np.array(self._loaded.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out; bytes that are no character yet as U+FFFD."""
        text: str = self._loaded.decode(list(ids), skip_special_tokens=True)
        return text


def check_text(text: object, *, what: str) -> str:
    """A non-empty string, stripped of nothing. Raises RequestError naming `what`."""
    if not isinstance(text, str):
        raise RequestError(f"{what} must be text, got {type(text).__name__}")
    if not text.strip():
        raise RequestError(f"{what} is empty")
    special = _SPECIAL_TOKEN.search(text)
    if special is not None:
        raise RequestError(f"{what} may not contain the model's special token {special[0]}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(f"{what} holds characters that are no Unicode text: {error}") from error
    return text
