"""Scores of speech: the words, and whose voice it is."""

from __future__ import annotations

from difflib import SequenceMatcher

from omni_rt.export.miniature.data.clip import CLIP_SAMPLES, WINDOW_SAMPLES, Wave, samples_of
from omni_rt.export.miniature.data.speech import SYLLABLES, VOICES, Speech
from omni_rt.export.miniature.tasks.hearing import heard_speech
from omni_rt.export.miniature.tasks.result import Score, scored


def speech_score(speech: Speech, clip: Wave) -> Score:
    """The string of syllables; where a voice was given, that voice too.

    A clip as long as the window still begins with the voice prompt, which is cut here; a shorter
    one comes from a session, which has cut it.
    """
    if speech.prompt_s and len(clip) >= WINDOW_SAMPLES:
        clip = clip[samples_of(speech.prompt_s) : CLIP_SAMPLES]
    heard = heard_speech(clip)
    asked = speech.prompt_s > 0
    checks = {"words": heard.syllables == speech.syllables}
    chances = {"words": len(SYLLABLES) ** -float(len(speech.syllables))}
    alike = SequenceMatcher(a=heard.syllables, b=speech.syllables, autojunk=False)
    measured = {"syllables": alike.ratio(), "pitch_hz": heard.pitch_hz}
    if asked:
        checks["voice"] = heard.voice == speech.voice
        chances["voice"] = 1 / len(VOICES)
    return scored(checks, chances, measured)
