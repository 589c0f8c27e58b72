"""Words to speak → character ids: Latin by letter, Han by toned pinyin (spec UPSTREAM §5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from omni_rt.errors import BundleError, RequestError

FILLER = -1
UNKNOWN = 0  # the same id as the space's, as in the original

_PLAIN = str.maketrans({";": ",", "“": '"', "”": '"', "‘": "'", "’": "'"})
_NO_SPACE_AFTER = frozenset(" :'\"")


def read_vocabulary(path: Path) -> dict[str, int]:
    """Character → id (its line's index). Lines keep their spaces: the first one is a space.

    Raises BundleError if the file is unreadable, is not UTF-8, or repeats a line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # text mode: CRLF becomes LF
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"vocabulary: cannot read {path}: {error}") from error
    if lines and lines[-1] == "":
        lines.pop()
    vocabulary = {line: index for index, line in enumerate(lines)}
    if len(vocabulary) != len(lines) or not lines:
        raise BundleError(f"vocabulary: {path} is empty or repeats a line")
    return vocabulary


def tokenize(text: str) -> list[str]:
    """Characters, pinyin syllables and separating spaces, as the model was trained on."""
    import jieba

    tokens: list[str] = []
    jieba.setLogLevel("WARNING")
    for segment in jieba.cut(text.translate(_PLAIN)):
        width = len(segment.encode("utf-8", "replace"))
        if width == len(segment):
            spaced = len(segment) > 1 and tokens and tokens[-1] not in _NO_SPACE_AFTER
            tokens += [" ", *segment] if spaced else segment
        elif width == 3 * len(segment):
            tokens += _syllables(segment, first_han=0x3100)
        else:
            tokens += _mixed(segment)
    return tokens


def _syllables(segment: str, *, first_han: int) -> Iterator[str]:
    """Pinyin with tones of a word's Han characters, each after a space; others as they are."""
    from pypinyin import Style, lazy_pinyin

    readings = lazy_pinyin(segment, style=Style.TONE3, tone_sandhi=True, errors=_letters)  # type: ignore[arg-type]
    for character, reading in zip(segment, readings, strict=True):
        if first_han <= ord(character) <= 0x9FFF:
            yield " "
        yield reading


def _letters(text: str) -> list[str]:
    """What has no reading comes through letter by letter."""
    return list(text)


def _mixed(segment: str) -> Iterator[str]:
    for character in segment:
        if ord(character) < 256:
            yield character
        else:
            yield from _syllables(character, first_han=0x3100)


def transcript_ids(text: str, vocabulary: dict[str, int]) -> NDArray[np.int64]:
    """Ids [n] before the model's +1 shift; unknown characters read as a space."""
    ids = [vocabulary.get(token, UNKNOWN) for token in tokenize(text)]
    return np.array(ids, dtype=np.int64)


def checked_ids(given: ArrayLike) -> NDArray[np.int64]:
    """Ids [n] as int64. Raises RequestError for anything but a list of non-negative integers."""
    try:
        ids = np.asarray(given)
    except ValueError as error:
        raise RequestError(f"transcript ids must be a list of integers: {error}") from error
    whole = ids.size == 0 or bool(np.issubdtype(ids.dtype, np.integer) and ids.min() >= 0)
    if ids.ndim != 1 or not whole:
        raise RequestError(
            f"transcript ids must be a list of non-negative integers, got {ids.dtype} "
            f"of shape {ids.shape}"
        )
    return ids.astype(np.int64)


def filled(ids: ArrayLike, length: int) -> NDArray[np.int64]:
    """Ids [1, length], cut or filled with −1: the `transcript` graph's input.

    Raises RequestError for anything but a list of non-negative integers.
    """
    given = checked_ids(ids)[:length]
    row = np.full((1, length), FILLER, dtype=np.int64)
    row[0, : len(given)] = given
    return row


def spoken_text(prompt: str, reference: str | None) -> str:
    """What the model is asked to speak: the voice clip's words, a full stop, then the prompt's.

    As the original joins them (spec UPSTREAM §9): trailing dots of the reference become one.
    """
    if reference is None:
        return prompt
    reference = reference.strip()
    if not reference.endswith("。"):
        reference = reference.rstrip(".") + ". "
    return reference + prompt
