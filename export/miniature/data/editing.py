"""Examples that change a recording: Add, Remove, Extract, Style Transfer."""

from __future__ import annotations

import numpy as np

from omni_rt.export.miniature.data import waves
from omni_rt.export.miniature.data.captions import new_part, part, pick_language, timbre
from omni_rt.export.miniature.data.clip import (
    Stream,
    Wave,
    faded,
    peak,
    pick,
    placed,
    random_peak,
    samples_of,
)
from omni_rt.export.miniature.data.example import Added, Example, Melody, Stems
from omni_rt.export.miniature.data.mixtures import draw_mixture
from omni_rt.export.miniature.data.render import TONE_RMS
from omni_rt.export.miniature.data.sounds import OCTAVES, Note
from omni_rt.export.miniature.data.waves import SHAPES

_MOST_NOTES = 3
_MELODY_OCTAVES = OCTAVES[:2]  # of the highest, overtones lie where the autoencoder keeps least
_MELODY_S = (1.3, 1.8)


def add_example(stream: Stream) -> Example:
    """A second sound comes in, as loud as its kind is."""
    mixture = draw_mixture(stream, settled_second=True)
    return Example(
        task="Add",
        kind="add",
        source=mixture.first,
        desc=new_part(mixture.second_sound, stream),
        target=mixture.both,
        truth=Added(before=mixture.first, added=mixture.second),
    )


def remove_example(stream: Stream) -> Example:
    """The second sound goes."""
    mixture = draw_mixture(stream, settled_second=False)
    return Example(
        task="Remove",
        kind="remove",
        source=mixture.both,
        desc=part(mixture.second_sound, stream),
        target=mixture.first,
        truth=Stems(kept=mixture.first, gone=mixture.second),
    )


def extract_example(stream: Stream) -> Example:
    """Only the second sound stays."""
    mixture = draw_mixture(stream, settled_second=False)
    return Example(
        task="Extract",
        kind="extract",
        source=mixture.both,
        desc=part(mixture.second_sound, stream),
        target=mixture.second,
        truth=Stems(kept=mixture.second, gone=mixture.first),
    )


def style_example(stream: Stream) -> Example:
    """The same one to three notes in another wave shape."""
    shapes = [SHAPES[index] for index in stream.permutation(len(SHAPES))[:2]]
    count = 1 + int(stream.randint(_MOST_NOTES))
    pitches = [(int(stream.randint(12)), pick(stream, _MELODY_OCTAVES)) for _ in range(count)]
    length_s = float(stream.uniform(*_MELODY_S))
    onset_s = float(stream.uniform(0.02, 1.95 - length_s))
    clips, melody = [], None
    for shape in shapes:
        notes = tuple(Note(pitch=p, octave=o, shape=shape) for p, o in pitches)
        melody = Melody(notes=notes, onset_s=onset_s, note_s=length_s / count)
        clips.append(_played(melody, stream))
    assert melody is not None
    gain = np.float32(random_peak(stream) / peak(*clips))
    language = pick_language(stream)
    return Example(
        task="Style Transfer",
        kind="style",
        source=clips[0] * gain,
        source_category=timbre(shapes[0], language),
        target_category=timbre(shapes[1], language),
        target=clips[1] * gain,
        truth=melody,
    )


def _played(melody: Melody, stream: Stream) -> Wave:
    notes = [
        faded(
            waves.tone(note.shape, note.hz, samples_of(melody.note_s), stream),
            attack_s=0.015,
            release_s=0.05,
        )
        for note in melody.notes
    ]
    return placed(np.concatenate(notes) * np.float32(TONE_RMS), melody.onset_s)
