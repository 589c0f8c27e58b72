"""Kinds of examples by name, drawn from a seeded stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from omni_rt.errors import RequestError
from omni_rt.export.miniature.data import editing, generation
from omni_rt.export.miniature.data.clip import Stream
from omni_rt.export.miniature.data.english import ENGLISH
from omni_rt.export.miniature.data.example import Example
from omni_rt.export.miniature.data.questions import SOUND_KINDS, question_example

_DRAW: Mapping[str, Callable[[Stream], Example]] = {
    **{kind: partial(generation.sound_example, kind) for kind in SOUND_KINDS},
    "speech": generation.speech_example,
    "voice_speech": partial(generation.voiced_example, "voice_speech"),
    "voice_conversion": partial(generation.voiced_example, "voice_conversion"),
    "flashes": generation.flash_example,
    "scene": generation.scene_example,
    "add": editing.add_example,
    "remove": editing.remove_example,
    "extract": editing.extract_example,
    "style": editing.style_example,
    **{kind: partial(question_example, kind) for kind in ENGLISH.questions},
}

KINDS = tuple(_DRAW)
QUESTION_KINDS = tuple(ENGLISH.questions)
AUDIO_KINDS = tuple(kind for kind in KINDS if kind not in QUESTION_KINDS)

# How often a kind is drawn to train on: the hardest, edits and arpeggios, are more than half.
AUDIO_WEIGHTS: Mapping[str, float] = {
    "note": 0.07,
    "chirp": 0.02,
    "clicks": 0.09,
    "noise": 0.02,
    "chord": 0.05,
    "arpeggio": 0.1,
    "add": 0.11,
    "remove": 0.13,
    "extract": 0.11,
    "style": 0.08,
    "speech": 0.07,
    "voice_speech": 0.06,
    "voice_conversion": 0.04,
    "flashes": 0.04,
    "scene": 0.01,
}
# The same to go on with, once all else is right: edits, the hardest, are two thirds.
MOSTLY_EDITS: Mapping[str, float] = {
    "note": 0.05,
    "chirp": 0.02,
    "clicks": 0.04,
    "noise": 0.04,
    "chord": 0.03,
    "arpeggio": 0.04,
    "add": 0.22,
    "remove": 0.16,
    "extract": 0.14,
    "style": 0.13,
    "speech": 0.04,
    "voice_speech": 0.03,
    "voice_conversion": 0.03,
    "flashes": 0.02,
    "scene": 0.01,
}
QUESTION_WEIGHTS: Mapping[str, float] = dict.fromkeys(QUESTION_KINDS, 1.0)


def draw(kind: str, stream: Stream) -> Example:
    """A random example of a kind; the same stream gives the same bytes.

    Raises RequestError for a kind that is not in KINDS.
    """
    if kind not in _DRAW:
        raise RequestError(f"unknown kind {kind!r}: expected one of {', '.join(KINDS)}")
    return _DRAW[kind](stream)


def held_out(kind: str, *, seed: int) -> Iterator[Example]:
    """Examples of a kind to measure with, without end; the same for the same seed.

    Training draws from other streams as long as its own seed is another one.
    Raises RequestError for a kind that is not in KINDS.
    """
    stream = Stream([seed, sum(kind.encode())])
    while True:
        yield draw(kind, stream)


def any_kind(stream: Stream, weights: Mapping[str, float]) -> str:
    """A random kind, each as likely as its share of the weights."""
    total = sum(weights.values())
    if not total > 0 or min(weights.values()) < 0:
        raise RequestError(f"weights must not be negative and not all 0, got {dict(weights)}")
    at = float(stream.uniform(0, total))
    for kind, weight in weights.items():
        at -= weight
        if at < 0 and weight > 0:
            return kind
    return next(k for k, w in reversed(list(weights.items())) if w > 0)


def draw_any(stream: Stream, weights: Mapping[str, float] = AUDIO_WEIGHTS) -> Example:
    """An example of a random kind, each as likely as its share of the weights."""
    return draw(any_kind(stream, weights), stream)
