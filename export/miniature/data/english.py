"""English terms and wordings."""

from __future__ import annotations

from omni_rt.export.miniature.data.language import Language

ENGLISH = Language(
    notes=("c", "c#", "d", "d#", "e", "f", "f#", "g", "g#", "a", "a#", "b"),
    numbers=("one", "two", "three", "four", "five", "six"),
    clicks=("one click", "two clicks", "three clicks", "four clicks", "five clicks", "six clicks"),
    shapes={"sine": "sine", "square": "square", "saw": "saw", "triangle": "triangle"},
    chirps=("falling", "rising"),
    ways=("down", "up"),
    noises={"brown": "brown", "pink": "pink", "white": "white", "blue": "blue"},
    qualities={"major": "major", "minor": "minor", "dim": "diminished", "sus": "suspended"},
    colours={"red": "red", "blue": "blue", "green": "green", "yellow": "yellow"},
    kinds={
        "note": "a tone",
        "chirp": "a chirp",
        "clicks": "clicks",
        "noise": "noise",
        "chord": "a chord",
        "arpeggio": "an arpeggio",
        "speech": "a voice",
    },
    captions={
        "note": (
            "a {shape} tone at {note} {octave}",
            "{note} {octave} as a {shape} wave",
            "a long {shape} note, {note} {octave}",
            "the note {note} {octave} played by a {shape} oscillator",
        ),
        "chirp": (
            "a {chirp} chirp",
            "a tone that glides {way}",
            "a sweep going {way}",
        ),
        "clicks": ("{clicks}", "the sound of {clicks}", "{clicks} in a quiet room"),
        "noise": ("{noise} noise", "steady {noise} noise", "a burst of {noise} noise"),
        "chord": (
            "a {note} {quality} chord",
            "the chord {note} {quality}",
            "a {quality} chord on {note}",
        ),
        "arpeggio": (
            "a {note} {quality} arpeggio going {way}",
            "a {chirp} arpeggio in {note} {quality}",
            "the notes of {note} {quality}, one after another, {way}",
        ),
    },
    parts={
        "note": ("the {shape} tone", "the tone", "the {shape} tone at {note} {octave}"),
        "chirp": ("the chirp", "the {chirp} chirp", "the tone that glides {way}"),
        "clicks": ("the clicks", "the {clicks}", "all clicks"),
        "noise": ("the noise", "the {noise} noise"),
        "chord": ("the chord", "the {quality} chord", "the {note} {quality} chord"),
    },
    new_parts={
        "note": ("a {shape} tone at {note} {octave}", "{note} {octave} as a {shape} wave"),
        "chirp": ("a {chirp} chirp", "a tone that glides {way}"),
        "clicks": ("{clicks}", "the sound of {clicks}"),
        "noise": ("{noise} noise", "a burst of {noise} noise"),
        "chord": ("a {note} {quality} chord", "a {quality} chord on {note}"),
    },
    videos={
        "flashes": ("a click with every flash", "clicks for the flashes", ""),
        "scene": ("music for this scene", "a chord that suits the colour", ""),
    },
    timbre="{shape} tone",
    questions={
        "ask_note": ("which note is it?", "what note do you hear?", "name the note."),
        "ask_shape": ("what wave shape is it?", "which wave is the tone?"),
        "ask_way": ("does it go up or down?", "which way does the tone go?"),
        "ask_count": ("how many clicks are there?", "count the clicks."),
        "ask_noise": ("what colour is the noise?", "which noise is it?"),
        "ask_chord": ("what kind of chord is it?", "name the quality of the chord."),
        "ask_kind": ("what do you hear?", "what sound is this?"),
        "ask_words": ("what does the voice say?", "write down the words that are spoken."),
        "ask_colour": ("what colour is the scene?", "which colour do you see?"),
        "ask_flashes": ("how many flashes are there?", "count the flashes."),
    },
)
