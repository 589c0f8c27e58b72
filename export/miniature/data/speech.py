"""Strings of syllables, spoken by one of four voices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from omni_rt.export.miniature.data.clip import (
    STEP_S,
    STEP_SAMPLES,
    Stream,
    Wave,
    pick,
    placed,
    samples_of,
)
from omni_rt.export.miniature.data.formants import (
    CONSONANTS,
    VOWELS,
    Voice,
    syllable,
)

SYLLABLES = tuple(c + v for c, v in product(CONSONANTS, VOWELS))
TRANSCRIPT_CHARACTERS = (" ", ".", *sorted({*CONSONANTS, *VOWELS}))  # a vocabulary begins with " "
PITCHES_HZ = (105.0, 150.0)
FORMANTS = (0.86, 1.12)
VOICES = tuple(Voice(pitch_hz=p, formants=f) for p, f in product(PITCHES_HZ, FORMANTS))
DEFAULT_VOICE = 0

_SYLLABLE_STEPS = 2
_PROMPT_SYLLABLES = 2
VOICE_CLIP_S = _PROMPT_SYLLABLES * _SYLLABLE_STEPS * STEP_S
_GLIDE = -0.04
_TABLE_SEED, _RENDITION = 20_260, 0
SPEECH_RMS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """What is said, by whom, and how much of the clip is the voice prompt's."""

    syllables: tuple[str, ...]
    voice: int  # index of VOICES
    prompt_s: float = 0.0

    @property
    def text(self) -> str:
        return " ".join(self.syllables)


@lru_cache(maxsize=512)
def spoken(name: str, voice: int) -> Wave:
    """A syllable [1600] as the table has it: the same in every process."""
    stream = np.random.RandomState([_TABLE_SEED, SYLLABLES.index(name), voice, _RENDITION])
    return syllable(name[0], name[1], VOICES[voice], glide=_GLIDE, stream=stream)


def draw_words(stream: Stream, *, least: int = 2, most: int = 5) -> tuple[str, ...]:
    """Syllables to say."""
    return tuple(pick(stream, SYLLABLES) for _ in range(int(stream.randint(least, most + 1))))


def speak(speech: Speech, onset_s: float, stream: Stream) -> Wave:
    """A clip [CLIP_SAMPLES] of the syllables, from `onset_s` on."""
    pieces: list[Wave] = []
    for name in speech.syllables:
        loudness = SPEECH_RMS * 10 ** (stream.uniform(-1.5, 1.5) / 20)
        wave = spoken(name, speech.voice)
        pause = _SYLLABLE_STEPS * STEP_SAMPLES - len(wave)
        pieces.append(np.pad(wave * np.float32(loudness), (0, pause)))
    return placed(np.concatenate(pieces), onset_s)


def speak_prompt(voice: int, stream: Stream) -> tuple[Speech, Wave]:
    """A voice prompt: what it says, and its sound [4096], which is all of 0.5 s."""
    words = draw_words(stream, least=_PROMPT_SYLLABLES, most=_PROMPT_SYLLABLES)
    speech = Speech(syllables=words, voice=voice)
    return speech, speak(speech, 0.0, stream)[: samples_of(VOICE_CLIP_S)]
