"""Procedural examples with right answers: `draw(kind, stream)`. NumPy only."""

from omni_rt.export.miniature.data.captions import vocabulary
from omni_rt.export.miniature.data.clip import CLIP_SAMPLES, RATE_HZ, WINDOW_SAMPLES, Stream, Wave
from omni_rt.export.miniature.data.draw import (
    AUDIO_KINDS,
    AUDIO_WEIGHTS,
    KINDS,
    MOSTLY_EDITS,
    QUESTION_KINDS,
    QUESTION_WEIGHTS,
    any_kind,
    draw,
    draw_any,
    held_out,
)
from omni_rt.export.miniature.data.example import Example
from omni_rt.export.miniature.data.speech import TRANSCRIPT_CHARACTERS

__all__ = [
    "AUDIO_KINDS",
    "AUDIO_WEIGHTS",
    "CLIP_SAMPLES",
    "KINDS",
    "MOSTLY_EDITS",
    "QUESTION_KINDS",
    "QUESTION_WEIGHTS",
    "RATE_HZ",
    "TRANSCRIPT_CHARACTERS",
    "WINDOW_SAMPLES",
    "Example",
    "Stream",
    "Wave",
    "any_kind",
    "draw",
    "draw_any",
    "held_out",
    "vocabulary",
]
