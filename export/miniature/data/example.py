"""One thing to do and its right answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from omni_rt.export.miniature.data.clip import Frames, Wave
from omni_rt.export.miniature.data.sounds import Chord, Note, Sound
from omni_rt.export.miniature.data.speech import Speech

ARGUMENTS = (
    "prompt",
    "transcript",
    "voice",
    "voice_transcript",
    "source",
    "desc",
    "source_category",
    "target_category",
    "frames",
    "question",
    "audio",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stems:
    """An edit's truth: what must be heard, and what must not."""

    kept: Wave
    gone: Wave


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Added:
    """Add's truth: the recording, and what was added to it."""

    before: Wave
    added: Wave


@dataclass(frozen=True, slots=True, kw_only=True)
class Melody:
    """Style transfer's truth: these notes, `note_s` long each, one after another."""

    notes: tuple[Note, ...]
    onset_s: float
    note_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Flashes:
    """When it flashes."""

    onsets_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A colour, and the chord that was played to it (of which only the quality is asked)."""

    colour: str
    chord: Chord


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The right answer, and how many answers there are that are as likely."""

    answer: str
    choices: int
    about: Sound | Speech | None  # what is heard


Truth: TypeAlias = Sound | Speech | Stems | Added | Melody | Flashes | Scene | Reply


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """A request (the arguments of `task`, a name of the runtime's) and what should come of it.

    facts: what the request's words name, in no language.

    target: float32 [CLIP_SAMPLES], None where the answer is text. Clips that are given (source,
    voice, audio) are float32 [samples] at RATE_HZ; frames are uint8 [50, 32, 32, 3] at 25 a second.
    """

    task: str
    kind: str
    truth: Truth
    target: Wave | None = None
    answer: str | None = None
    prompt: str | None = None
    transcript: str | None = None
    voice: Wave | None = None
    voice_transcript: str | None = None
    source: Wave | None = None
    desc: str | None = None
    source_category: str | None = None
    target_category: str | None = None
    frames: Frames | None = None
    question: str | None = None
    audio: Wave | None = None
    facts: tuple[str, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """What the request is made of: the arguments that are given."""
        given = {name: getattr(self, name) for name in ARGUMENTS}
        return {name: value for name, value in given.items() if value is not None}
