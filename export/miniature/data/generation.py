"""Examples that make sound from words or video: T2A, T2M, TTS, VC, V2A, V2M."""

from __future__ import annotations

import numpy as np

from omni_rt.export.miniature.data import video
from omni_rt.export.miniature.data.captions import caption, pick_language
from omni_rt.export.miniature.data.clip import Stream, on_step_s, pick, samples_of
from omni_rt.export.miniature.data.example import Example, Flashes, Scene
from omni_rt.export.miniature.data.render import levelled, random_span, render, render_clicks
from omni_rt.export.miniature.data.sounds import Chord, Clicks, draw_sound
from omni_rt.export.miniature.data.speech import (
    DEFAULT_VOICE,
    VOICE_CLIP_S,
    VOICES,
    Speech,
    draw_words,
    speak,
    speak_prompt,
)

TASK_OF_SOUND = {
    "note": "T2A",
    "chirp": "T2A",
    "clicks": "T2A",
    "noise": "T2A",
    "chord": "T2M",
    "arpeggio": "T2M",
}
_MOST_NEW_WORDS = 4  # after a voice prompt
_SCENE_ROOT = 0  # of every scene's chord: what is asked is its quality


def sound_example(kind: str, stream: Stream) -> Example:
    """A sound from its caption."""
    sound = draw_sound(kind, stream)
    clip = render(sound, random_span(kind, stream), stream)
    told = caption(sound, stream)
    return Example(
        task=TASK_OF_SOUND[kind],
        kind=kind,
        prompt=told.text,
        facts=told.facts,
        target=levelled(clip, stream),
        truth=sound,
    )


def speech_example(stream: Stream) -> Example:
    """Words in the voice that speaks unless another is given, at once."""
    speech = Speech(syllables=draw_words(stream), voice=DEFAULT_VOICE)
    target = levelled(speak(speech, 0.0, stream), stream)
    return Example(task="TTS", kind="speech", prompt=speech.text, target=target, truth=speech)


def voiced_example(kind: str, stream: Stream) -> Example:
    """Words in the voice of a recording: the target is that recording, then the words."""
    voice = int(stream.randint(len(VOICES)))
    prompt, clip = speak_prompt(voice, stream)
    words = draw_words(stream, most=_MOST_NEW_WORDS)
    speech = Speech(syllables=words, voice=voice, prompt_s=VOICE_CLIP_S)
    target = speak(speech, VOICE_CLIP_S, stream)
    target[: samples_of(VOICE_CLIP_S)] = clip
    loud = levelled(target, stream)
    cloning = kind == "voice_speech"
    return Example(
        task="TTS" if cloning else "VC",
        kind=kind,
        prompt=speech.text if cloning else None,
        transcript=None if cloning else speech.text,
        voice=np.array(loud[: samples_of(VOICE_CLIP_S)]),
        voice_transcript=prompt.text,
        target=loud,
        truth=speech,
    )


def flash_example(stream: Stream) -> Example:
    """A click on each flash."""
    firsts = video.draw_flash_frames(stream)
    onsets_s = tuple(first / video.FPS for first in firsts)
    clicks = Clicks(onsets_s=tuple(on_step_s(s) for s in onsets_s))
    return Example(
        task="V2A",
        kind="flashes",
        prompt=pick(stream, pick_language(stream).videos["flashes"]),
        frames=video.flashes(firsts, stream),
        target=levelled(render_clicks(clicks, stream), stream),
        truth=Flashes(onsets_s=onsets_s),
    )


def scene_example(stream: Stream) -> Example:
    """A chord on C whose quality goes with the scene's colour."""
    colour = pick(stream, tuple(video.COLOURS))
    chord = Chord(root=_SCENE_ROOT, quality=video.QUALITY_OF[colour])
    clip = render(chord, random_span(chord.kind, stream), stream)
    return Example(
        task="V2M",
        kind="scene",
        prompt=pick(stream, pick_language(stream).videos["scene"]),
        frames=video.coloured_scene(colour, stream),
        target=levelled(clip, stream),
        truth=Scene(colour=colour, chord=chord),
    )
