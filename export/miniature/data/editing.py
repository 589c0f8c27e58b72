"""Examples that change a recording: Add, Remove, Extract, Style Transfer."""

from __future__ import annotations

import numpy as np

from omni_rt.export.miniature.data import waves
from omni_rt.export.miniature.data.captions import new_part, part, pick_language, timbre
from omni_rt.export.miniature.data.clip import (
    RATE_HZ,
    STEP_S,
    Stream,
    Wave,
    faded,
    peak,
    pick,
    placed,
    random_onset_s,
    random_peak,
    samples_of,
)
from omni_rt.export.miniature.data.example import Added, Example, Melody, Stems
from omni_rt.export.miniature.data.mixtures import draw_mixture
from omni_rt.export.miniature.data.render import TONE_RMS
from omni_rt.export.miniature.data.sounds import OCTAVES, Note
from omni_rt.export.miniature.data.waves import SHAPES

_MOST_NOTES = 3
_MELODY_STEPS = 12


def add_example(stream: Stream) -> Example:
    """A second sound comes in, as loud as its kind is."""
    mixture = draw_mixture(stream, settled_second=True)
    told = new_part(mixture.second_sound, stream)
    return Example(
        task="Add",
        kind="add",
        source=mixture.first,
        desc=told.text,
        facts=told.facts,
        target=mixture.both,
        truth=Added(before=mixture.first, added=mixture.second),
    )


def remove_example(stream: Stream) -> Example:
    """The second sound goes."""
    mixture = draw_mixture(stream, settled_second=False)
    told = part(mixture.second_sound, stream)
    return Example(
        task="Remove",
        kind="remove",
        source=mixture.both,
        desc=told.text,
        facts=told.facts,
        target=mixture.first,
        truth=Stems(kept=mixture.first, gone=mixture.second),
    )


def extract_example(stream: Stream) -> Example:
    """Only the second sound stays."""
    mixture = draw_mixture(stream, settled_second=False)
    told = part(mixture.second_sound, stream)
    return Example(
        task="Extract",
        kind="extract",
        source=mixture.both,
        desc=told.text,
        facts=told.facts,
        target=mixture.second,
        truth=Stems(kept=mixture.second, gone=mixture.first),
    )


def style_example(stream: Stream) -> Example:
    """The same one to three notes in another wave shape."""
    shapes = [SHAPES[index] for index in stream.permutation(len(SHAPES))[:2]]
    count = 1 + int(stream.randint(_MOST_NOTES))
    pitches = [(int(stream.randint(12)), pick(stream, OCTAVES)) for _ in range(count)]
    onset_s, length_s = random_onset_s(stream, _MELODY_STEPS), _MELODY_STEPS * STEP_S
    clips, melody = [], None
    for shape in shapes:
        notes = tuple(Note(pitch=p, octave=o, shape=shape) for p, o in pitches)
        melody = Melody(notes=notes, onset_s=onset_s, note_s=length_s / count)
        clips.append(_played(melody))
    assert melody is not None
    gain = np.float32(random_peak(stream) / peak(*clips))
    language = pick_language(stream)
    return Example(
        task="Style Transfer",
        kind="style",
        source=clips[0] * gain,
        source_category=timbre(shapes[0], language),
        target_category=timbre(shapes[1], language),
        facts=(f"from {shapes[0]}", f"to {shapes[1]}"),
        target=clips[1] * gain,
        truth=melody,
    )


def _played(melody: Melody) -> Wave:
    notes, samples = [], samples_of(melody.note_s)
    for i, note in enumerate(melody.notes):
        at_s = melody.onset_s + i * samples / RATE_HZ
        wave = waves.tone(note.shape, note.hz, samples, onset_s=at_s)
        notes.append(faded(wave, attack_s=0.015, release_s=0.05))
    return placed(np.concatenate(notes) * np.float32(TONE_RMS), melody.onset_s)
