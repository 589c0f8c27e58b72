"""Facts → words: captions, descriptions of parts, and every word that they can hold."""

from __future__ import annotations

from dataclasses import dataclass

from omni_rt.export.miniature.data.clip import Stream, pick
from omni_rt.export.miniature.data.english import ENGLISH
from omni_rt.export.miniature.data.language import Language, words_in, words_of
from omni_rt.export.miniature.data.sounds import (
    Arpeggio,
    Chirp,
    Chord,
    Clicks,
    Noise,
    Note,
    Sound,
)
from omni_rt.export.miniature.data.spanish import SPANISH
from omni_rt.export.miniature.data.speech import SYLLABLES

LANGUAGES = (ENGLISH, SPANISH)
_SECOND_LANGUAGE_SHARE = 0.25
_TONES = ("note", "octave", "quality")
_OCTAVES_SAID = ("3", "4", "5")  # the tokenizer keeps a word for those of earlier data


def pick_language(stream: Stream) -> Language:
    """English, or in one of four examples the second language."""
    return SPANISH if stream.uniform() < _SECOND_LANGUAGE_SHARE else ENGLISH


def terms(sound: Sound, language: Language) -> dict[str, str]:
    """The values of a template's fields."""
    if isinstance(sound, Note):
        return {
            "note": language.notes[sound.pitch],
            "octave": str(sound.octave),
            "shape": language.shapes[sound.shape],
        }
    if isinstance(sound, Clicks):
        return {"clicks": language.clicks[len(sound.onsets_s) - 1]}
    if isinstance(sound, Noise):
        return {"noise": language.noises[sound.colour]}
    if isinstance(sound, Chirp):
        return _direction(sound.rising, language)
    chord = {"note": language.notes[sound.root], "quality": language.qualities[sound.quality]}
    if isinstance(sound, Chord):
        return chord
    assert isinstance(sound, Arpeggio)
    return chord | _direction(sound.rising, language)


def _direction(rising: bool, language: Language) -> dict[str, str]:
    return {"chirp": language.chirps[rising], "way": language.ways[rising]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Words, and the facts that they name, which are the same in every language."""

    text: str
    facts: tuple[str, ...]


def caption(sound: Sound, stream: Stream) -> Told:
    """A description of the whole clip."""
    language = pick_language(stream)
    return _told(sound, pick(stream, language.captions[sound.kind]), language)


def part(sound: Sound, stream: Stream) -> Told:
    """A sound of a recording, as one refers to it."""
    language = pick_language(stream)
    return _told(sound, pick(stream, language.parts[sound.kind]), language)


def new_part(sound: Sound, stream: Stream) -> Told:
    """A sound to add, with all that is to be known of it."""
    language = pick_language(stream)
    return _told(sound, pick(stream, language.new_parts[sound.kind]), language)


def _told(sound: Sound, wording: str, language: Language) -> Told:
    text = wording.format_map(terms(sound, language))
    named = {name: term for name, term in terms(sound, ENGLISH).items() if f"{{{name}}}" in wording}
    if "chirp" in named:  # the same fact in another form
        named["way"] = terms(sound, ENGLISH)["way"]
        del named["chirp"]
    facts = [sound.kind, *(f"{name} {term}" for name, term in named.items())]
    if "note" in named and len(named) > 1:  # which tones are meant depends on both
        facts.append(" ".join(named[name] for name in _TONES if name in named))
    return Told(text=text, facts=tuple(facts))


def timbre(shape: str, language: Language) -> str:
    """A category for style transfer."""
    return language.timbre.format(shape=language.shapes[shape])


def vocabulary() -> tuple[str, ...]:
    """Every word and mark in captions, descriptions, questions and answers, sorted."""
    words = set(_OCTAVES_SAID) | set(SYLLABLES) | set(words_in("?.,"))
    return tuple(sorted(words.union(*(words_of(language) for language in LANGUAGES))))
