"""What a language must have so that every example can be told in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

Wordings = Mapping[str, tuple[str, ...]]  # kind → templates with {fields}

_FIELD = re.compile(r"\{\w+\}")
_WORD = re.compile(r"[\w#]+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """Terms by what they mean, and wordings by what they are for; all in lower case."""

    notes: tuple[str, ...]  # of pitch 0 to 11
    numbers: tuple[str, ...]  # of 1 to 6
    clicks: tuple[str, ...]  # so many clicks, 1 to 6
    shapes: Mapping[str, str]
    chirps: tuple[str, str]  # falling, rising
    ways: tuple[str, str]  # down, up
    noises: Mapping[str, str]
    qualities: Mapping[str, str]
    colours: Mapping[str, str]  # of scenes
    kinds: Mapping[str, str]  # a sound's kind, as an answer
    captions: Wordings
    parts: Wordings  # a sound that a recording has
    new_parts: Wordings  # a sound to add: all that is to be known of it
    videos: Wordings
    timbre: str  # a category for style transfer
    questions: Wordings


def words_in(text: str) -> list[str]:
    """Words and punctuation marks; a sharp belongs to its note."""
    return _WORD.findall(text)


def words_of(language: Language) -> set[str]:
    """Every word that the language's terms and wordings are made of."""
    return {
        word
        for field in fields(language)
        for text in _texts(getattr(language, field.name))
        for word in words_in(_FIELD.sub(" ", text))
    }


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(tuple(value.values()))
    else:
        assert isinstance(value, tuple)
        for item in value:
            yield from _texts(item)
