"""Questions about what is heard or seen, with short answers in the question's language."""

from __future__ import annotations

from omni_rt.export.miniature.data import video
from omni_rt.export.miniature.data.captions import pick_language
from omni_rt.export.miniature.data.clip import STEP_S, Frames, Stream, Wave, pick
from omni_rt.export.miniature.data.example import Example, Reply
from omni_rt.export.miniature.data.language import Language
from omni_rt.export.miniature.data.render import levelled, random_span, render
from omni_rt.export.miniature.data.sounds import (
    MOST_CLICKS,
    QUALITIES,
    Arpeggio,
    Chirp,
    Chord,
    Clicks,
    Noise,
    Note,
    Sound,
    draw_sound,
)
from omni_rt.export.miniature.data.speech import (
    SYLLABLES,
    VOICES,
    Speech,
    draw_words,
    speak,
)
from omni_rt.export.miniature.data.waves import COLOURS, SHAPES

SOUND_KINDS = ("note", "chirp", "clicks", "noise", "chord", "arpeggio")
_SOUND_OF = {
    "ask_note": ("note",),
    "ask_shape": ("note",),
    "ask_way": ("chirp", "arpeggio"),
    "ask_count": ("clicks",),
    "ask_noise": ("noise",),
    "ask_chord": ("chord",),
}
_SPOKEN_LENGTHS = 4  # 2 to 5 syllables


def question_example(kind: str, stream: Stream) -> Example:
    """A question of this kind with its answer."""
    language = pick_language(stream)
    audio, frames, reply = _asked(kind, language, stream)
    return Example(
        task="understand",
        kind=kind,
        question=pick(stream, language.questions[kind]),
        audio=audio,
        frames=frames,
        answer=reply.answer,
        truth=reply,
    )


def _asked(
    kind: str, language: Language, stream: Stream
) -> tuple[Wave | None, Frames | None, Reply]:
    if kind == "ask_colour":
        colour = pick(stream, tuple(video.COLOURS))
        reply = Reply(answer=language.colours[colour], choices=len(video.COLOURS), about=None)
        return None, video.coloured_scene(colour, stream), reply
    if kind == "ask_flashes":
        count, frames = video.draw_slow_flashes(stream)
        answer = language.numbers[count - 1]
        return None, frames, Reply(answer=answer, choices=video.MOST_SLOW_FLASHES, about=None)
    if kind == "ask_words":
        speech, audio = _speech(stream)
        choices = _SPOKEN_LENGTHS * len(SYLLABLES) ** len(speech.syllables)
        return audio, None, Reply(answer=speech.text, choices=choices, about=speech)
    if kind == "ask_kind":
        return _any_sound(language, stream)
    sound = draw_sound(pick(stream, _SOUND_OF[kind]), stream)
    audio = levelled(render(sound, random_span(sound.kind, stream), stream), stream)
    answer, choices = _fact(kind, sound, language)
    return audio, None, Reply(answer=answer, choices=choices, about=sound)


def _any_sound(language: Language, stream: Stream) -> tuple[Wave, None, Reply]:
    heard = pick(stream, (*SOUND_KINDS, "speech"))
    choices = len(SOUND_KINDS) + 1
    if heard == "speech":
        speech, audio = _speech(stream)
        return audio, None, Reply(answer=language.kinds[heard], choices=choices, about=speech)
    sound = draw_sound(heard, stream)
    audio = levelled(render(sound, random_span(sound.kind, stream), stream), stream)
    return audio, None, Reply(answer=language.kinds[heard], choices=choices, about=sound)


def _speech(stream: Stream) -> tuple[Speech, Wave]:
    speech = Speech(syllables=draw_words(stream), voice=int(stream.randint(len(VOICES))))
    return speech, levelled(speak(speech, int(stream.randint(3)) * STEP_S, stream), stream)


def _fact(kind: str, sound: Sound, language: Language) -> tuple[str, int]:
    """The answer, and out of how many."""
    if isinstance(sound, Note):
        if kind == "ask_note":
            return language.notes[sound.pitch], 12
        return language.shapes[sound.shape], len(SHAPES)
    if isinstance(sound, Chirp | Arpeggio):
        return language.ways[sound.rising], 2
    if isinstance(sound, Clicks):
        return language.numbers[len(sound.onsets_s) - 1], MOST_CLICKS
    if isinstance(sound, Noise):
        return language.noises[sound.colour], len(COLOURS)
    assert isinstance(sound, Chord)
    return language.qualities[sound.quality], len(QUALITIES)
