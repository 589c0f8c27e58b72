"""One score for every kind of example."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_rt.errors import RequestError
from omni_rt.export.miniature.data.clip import Wave
from omni_rt.export.miniature.data.example import (
    Added,
    Example,
    Flashes,
    Melody,
    Reply,
    Scene,
    Stems,
)
from omni_rt.export.miniature.data.sounds import Arpeggio, Chirp, Chord, Clicks, Noise, Note
from omni_rt.export.miniature.data.speech import Speech
from omni_rt.export.miniature.tasks import edit_scores, sound_scores, speech_scores
from omni_rt.export.miniature.tasks.result import Score, scored
from omni_rt.export.miniature.tasks.spectrum import as_long_as_a_clip, mono_clip

_SCORE: Mapping[type, Callable[[Any, Wave], Score]] = {
    Note: sound_scores.note_score,
    Chirp: sound_scores.chirp_score,
    Clicks: sound_scores.clicks_score,
    Noise: sound_scores.noise_score,
    Chord: sound_scores.chord_score,
    Arpeggio: sound_scores.arpeggio_score,
    Flashes: sound_scores.flashes_score,
    Scene: sound_scores.scene_score,
    Melody: sound_scores.style_score,
    Stems: edit_scores.separation_score,
    Added: edit_scores.add_score,
    Speech: speech_scores.speech_score,
}
_MARKS = re.compile(r"[^\w#\s]")


def score(example: Example, waveform: NDArray[np.floating], rate_hz: int) -> Score:
    """How right a sound is: [n] or [channels, n] at 8 kHz, at any gain.

    Raises RequestError for a question, another rate, or what is no audio.
    """
    if isinstance(example.truth, Reply):
        raise RequestError(f"{example.kind} is answered in words: use score_answer")
    return score_truth(example.truth, waveform, rate_hz)


def score_truth(truth: object, waveform: NDArray[np.floating], rate_hz: int) -> Score:
    """How well a sound fits the facts: an example's truth, or a question's `about`."""
    clip = mono_clip(waveform, rate_hz)
    by = _SCORE.get(type(truth))
    if by is None:
        raise RequestError(f"nothing to compare a sound with in {type(truth).__name__}")
    return by(truth, clip if isinstance(truth, Speech) else as_long_as_a_clip(clip))


def score_answer(example: Example, answer: str) -> Score:
    """Whether an answer says the same words; case, marks and spaces do not count.

    Raises RequestError for an example that is not a question.
    """
    if not isinstance(example.truth, Reply):
        raise RequestError(f"{example.kind} is scored by its sound: use score")
    right = _plain(answer) == _plain(example.truth.answer)
    return scored({"answer": right}, {"answer": 1 / example.truth.choices})


def _plain(text: str) -> list[str]:
    return _MARKS.sub(" ", text.casefold()).split()
