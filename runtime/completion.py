"""Requests as they are given → complete: recordings read once, unsaid words listened for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from omni_rt.audio import Audio
from omni_rt.errors import RequestError
from omni_rt.preprocess.waveform import read_clip
from omni_rt.tasks import VOICE_S, Request

# Recordings of a request, and the field for the words spoken in each.
_WORDS_OF = {"voice": "voice_transcript", "source": "transcript"}


def with_words(request: Request, transcribe: Callable[[Audio], str]) -> Request:
    """The request, whose recordings are read, with the words in them heard if not given."""
    unsaid = {
        words: _first(recording, given)
        for given, words in _WORDS_OF.items()
        if (recording := getattr(request, given, None)) is not None
        and getattr(request, words, "") is None
    }
    if not unsaid:
        return request
    replace(request, **dict.fromkeys(unsaid, "words")).spoken()  # what else is wrong is said first
    return replace(request, **{words: transcribe(clip) for words, clip in unsaid.items()})


def _first(recording: Audio, given: str) -> Audio:
    """What of a recording is used: of a voice its first seconds."""
    if given != "voice":
        return recording
    kept = recording.samples[:, : round(VOICE_S * recording.sample_rate_hz)]
    return replace(recording, samples=kept)


def with_clips_read(request: Request) -> Request:
    """The request with its recordings decoded and checked, so that they are read once."""
    if not isinstance(request, Request):
        raise RequestError(f"a request is one of omni_rt's, such as TextToAudio, got {request!r}")
    changes: dict[str, Any] = {
        name: read_clip(getattr(request, name), what=name)
        for name in ("source", "voice", "audio")
        if getattr(request, name, None) is not None
    }
    return replace(request, **changes) if changes else request


def for_record(value: Any) -> Any:
    return dict(value.made) if isinstance(value, Audio) else value
