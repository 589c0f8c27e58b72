"""The model's tasks: one frozen request per task, and what each says to the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, get_args

from omni_rt.audio import Audio
from omni_rt.errors import RequestError
from omni_rt.preprocess.chat import AUDIO_TAG, VIDEO_TAG, check_text, fill
from omni_rt.preprocess.transcript import spoken_text
from omni_rt.video import FrameRule

Clip: TypeAlias = "str | Path | Audio"

VOICE_S = 6.0  # the model was trained on voice prompts of at most this


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """A video file and how it is looked at."""

    path: str | Path
    rule: FrameRule
    small: bool
    allow_damaged: bool

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, Path)):
            raise RequestError(f"video must be a path, got {type(self.path).__name__}")
        if self.rule not in get_args(FrameRule):
            raise RequestError(
                f"frame_rule must be one of {get_args(FrameRule)}, got {self.rule!r}"
            )
        for name, value in (("small_frames", self.small), ("allow_damaged", self.allow_damaged)):
            if not isinstance(value, bool):
                raise RequestError(f"{name} must be True or False, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What all tasks answer; the subclasses' fields are the arguments of their task."""

    task: ClassVar[str]
    system: ClassVar[str]  # name of the system prompt's template
    long: ClassVar[bool] = False  # may last longer than one window

    def user_text(self, templates: Mapping[str, str]) -> str:
        """The user's turn in the thinker's prompt. Raises RequestError for unusable text."""
        raise NotImplementedError

    def negative_text(self, text: str) -> str:
        """The user's turn of a negative prompt, worded as this task words its own."""
        return text

    def spoken(self) -> str | None:
        """The words for the transcript input, or None."""
        return None

    def clip(self) -> Clip | None:
        """The recording that conditions the output through its log-mel, or None."""
        return None

    def example(self) -> Clip | None:
        """The recording that the thinker hears with the prompt, or None."""
        return None

    def footage(self) -> Footage | None:
        """The video that the output belongs to, or None."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text(Request):
    """`audio` is a recording to go by: the prompt says what to make of it."""

    prompt: str
    audio: Clip | None = None
    long: ClassVar[bool] = True

    def user_text(self, templates: Mapping[str, str]) -> str:
        return check_text(self.prompt, what="prompt") + "." + _tag(self.audio)

    def example(self) -> Clip | None:
        return self.audio

    def negative_text(self, text: str) -> str:
        return text + "."


@dataclass(frozen=True, slots=True, kw_only=True)
class TextToAudio(_Text):
    """Sound from a description."""

    task: ClassVar[str] = "T2A"
    system: ClassVar[str] = "SYSTEM_T2A"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextToMusic(_Text):
    """Music from a description."""

    task: ClassVar[str] = "T2M"
    system: ClassVar[str] = "SYSTEM_T2M"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Video(Request):
    """Sound for a video, or for a picture that stands still.

    `prompt` may be empty. `frame_rule`: "time_correct" takes frames by their time stamps,
    "upstream_compat" by their number as the original does. `small_frames` shows the thinker
    224 × 224 pixels instead of 336 × 336: half the tokens, and a departure from the original.
    `allow_damaged` skips frames that cannot be decoded; without it they are an error.
    """

    video: str | Path
    prompt: str = ""
    audio: Clip | None = None
    frame_rule: FrameRule = "time_correct"
    small_frames: bool = False
    allow_damaged: bool = False
    long: ClassVar[bool] = True

    def user_text(self, templates: Mapping[str, str]) -> str:
        words = self.prompt
        if words != "":
            check_text(words, what="prompt")
        return f"{words}\n{VIDEO_TAG}{_tag(self.audio)}"

    def example(self) -> Clip | None:
        return self.audio

    def footage(self) -> Footage:
        return Footage(
            path=self.video,
            rule=self.frame_rule,
            small=self.small_frames,
            allow_damaged=self.allow_damaged,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoToAudio(_Video):
    """The sound of what a video shows."""

    task: ClassVar[str] = "V2A"
    system: ClassVar[str] = "SYSTEM_V2A"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoToMusic(_Video):
    """Music for a video."""

    task: ClassVar[str] = "V2M"
    system: ClassVar[str] = "SYSTEM_V2M"


def _tag(audio: Clip | None) -> str:
    return "" if audio is None else AUDIO_TAG


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speech(Request):
    system: ClassVar[str] = "SYSTEM_TTS"

    def user_text(self, templates: Mapping[str, str]) -> str:
        return ""  # the words reach the model through the transcript input only


@dataclass(frozen=True, slots=True, kw_only=True)
class TextToSpeech(_Speech):
    """Speech of the words in `prompt`, in the timbre of `voice` where given.

    Of `voice` the first 6 s are used. `voice_transcript` are the words spoken in them; a session
    asks the thinker for them if they are not given.
    """

    prompt: str
    voice: Clip | None = None
    voice_transcript: str | None = None
    task: ClassVar[str] = "TTS"

    def spoken(self) -> str:
        words = check_text(self.prompt, what="prompt")
        if self.voice is None and self.voice_transcript is not None:
            raise RequestError("voice_transcript is given without voice")
        return spoken_text(words, _said_by(self.voice, self.voice_transcript))

    def clip(self) -> Clip | None:
        return self.voice


def _said_by(voice: Clip | None, transcript: str | None) -> str | None:
    if voice is None:
        return None
    if transcript is None:
        raise RequestError("voice needs voice_transcript, the words spoken in it")
    return check_text(transcript, what="voice_transcript")


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceConversion(_Speech):
    """The words of a recording in the timbre of `voice`.

    `transcript` are those words; a session asks the thinker for them if it gets the recording as
    `source` instead, and for `voice_transcript` if that is not given.
    """

    voice: Clip
    transcript: str | None = None
    source: Clip | None = None
    voice_transcript: str | None = None
    task: ClassVar[str] = "VC"

    def spoken(self) -> str:
        if self.transcript is None:
            raise RequestError("VC needs transcript, the words to speak, or source, a recording")
        words = check_text(self.transcript, what="transcript")
        return spoken_text(words, _said_by(self.voice, self.voice_transcript))

    def clip(self) -> Clip:
        return self.voice


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit(Request):
    """An edit of a recording."""

    source: Clip
    system: ClassVar[str] = "SYSTEM_EDITING"

    def clip(self) -> Clip:
        return self.source


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described(Edit):
    desc: str
    template: ClassVar[str]

    def user_text(self, templates: Mapping[str, str]) -> str:
        return fill(templates[self.template], {"desc": check_text(self.desc, what="desc")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(_Described):
    """Add a sound to a recording."""

    task: ClassVar[str] = "Add"
    template: ClassVar[str] = "EDITING_ADD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove(_Described):
    """Remove a sound from a recording."""

    task: ClassVar[str] = "Remove"
    template: ClassVar[str] = "EDITING_REMOVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract(_Described):
    """Keep one sound of a recording."""

    task: ClassVar[str] = "Extract"
    template: ClassVar[str] = "EDITING_EXTRACT"


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleTransfer(Edit):
    """Turn one kind of sound into another."""

    source_category: str
    target_category: str
    task: ClassVar[str] = "Style Transfer"

    def user_text(self, templates: Mapping[str, str]) -> str:
        values = {
            "source": check_text(self.source_category, what="source_category"),
            "target": check_text(self.target_category, what="target_category"),
        }
        return fill(templates["EDITING_STYLE"], values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech(Edit):
    """Words of a recording replaced in the speaker's own voice.

    `transcript` are the words that are said; a session asks the thinker for them if they are not
    given. `new_transcript` are those to be said instead.
    """

    new_transcript: str
    transcript: str | None = None
    task: ClassVar[str] = "Speech"
    system: ClassVar[str] = "SYSTEM_TTS"

    def user_text(self, templates: Mapping[str, str]) -> str:
        return ""


GENERATION: tuple[type[Request], ...] = (
    TextToAudio,
    TextToMusic,
    VideoToAudio,
    VideoToMusic,
    TextToSpeech,
    VoiceConversion,
)
EDITING: tuple[type[Request], ...] = (Add, Remove, Extract, StyleTransfer, Speech)


def make_request(
    task: str, given: Mapping[str, Any], *, among: tuple[type[Request], ...]
) -> Request:
    """The request of `task` from its arguments; None counts as not given.

    Raises RequestError for an unknown task, a missing argument, or one the task does not take.
    """
    by_name = {_plain(kind.task): kind for kind in among}
    kind = by_name.get(_plain(task)) if isinstance(task, str) else None
    if kind is None:
        known = ", ".join(k.task for k in among)
        raise RequestError(f"unknown task {task!r}: expected one of {known}")
    arguments = {name: value for name, value in given.items() if value is not None}
    names = [f.name for f in fields(kind)]
    alien = sorted(arguments.keys() - set(names))
    if alien:
        raise RequestError(f"{kind.task} takes no {', '.join(alien)}; it takes {', '.join(names)}")
    try:
        return kind(**arguments)
    except TypeError:
        required = [n for n in names if n not in arguments and n not in _optional(kind)]
        raise RequestError(f"{kind.task} needs {', '.join(required)}") from None


def _plain(task: str) -> str:
    return "".join(c for c in task.lower() if c.isalnum())


def _optional(kind: type[Request]) -> frozenset[str]:
    return frozenset(f.name for f in fields(kind) if f.default is not MISSING)
