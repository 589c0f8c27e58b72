"""Scores of single sounds: is it what was described?"""

from __future__ import annotations

from math import factorial, isfinite

from omni_rt.export.miniature.data.clip import Wave, samples_of
from omni_rt.export.miniature.data.example import Flashes, Melody, Scene
from omni_rt.export.miniature.data.sounds import (
    MOST_CLICKS,
    OCTAVES,
    QUALITIES,
    Arpeggio,
    Chirp,
    Chord,
    Clicks,
    Noise,
    Note,
)
from omni_rt.export.miniature.data.video import MOST_FLASHES
from omni_rt.export.miniature.data.waves import COLOURS, SHAPES
from omni_rt.export.miniature.tasks.chroma import measured_chord
from omni_rt.export.miniature.tasks.colour import measured_slope_db, nearest_colour
from omni_rt.export.miniature.tasks.direction import measured_direction
from omni_rt.export.miniature.tasks.onsets import click_onsets_s, onset_error_s
from omni_rt.export.miniature.tasks.pitch import is_pitch, measured_tone
from omni_rt.export.miniature.tasks.result import Score, scored

ONSET_TOLERANCE_S = 0.04
_NO_ONSET_S = 9.9  # reported where clicks and times cannot be paired
_PITCH_CHANCE = 1 / (12 * len(OCTAVES))
_ROOT_CHANCE, _QUALITY_CHANCE = 1 / 12, 1 / len(QUALITIES)
_CLIP_S = 1.85  # in which an onset may lie


def note_score(note: Note, clip: Wave) -> Score:
    """Pitch within 3 %, and the wave shape."""
    hz, shape = measured_tone(clip)
    checks = {"pitch": is_pitch(hz, note.hz), "shape": shape == note.shape}
    chances = {"pitch": _PITCH_CHANCE, "shape": 1 / len(SHAPES)}
    return scored(checks, chances, {"pitch_hz": hz})


def chirp_score(chirp: Chirp, clip: Wave) -> Score:
    """Up or down."""
    right = measured_direction(clip) == (1 if chirp.rising else -1)
    return scored({"direction": right}, {"direction": 0.5})


def clicks_score(clicks: Clicks, clip: Wave) -> Score:
    """How many there are. Their times are reported, since nobody asked for them."""
    found = click_onsets_s(clip)
    error_s = onset_error_s(found, clicks.onsets_s)
    return scored(
        {"count": len(found) == len(clicks.onsets_s)},
        {"count": 1 / MOST_CLICKS},
        {"found": len(found), "onset_error_s": error_s if isfinite(error_s) else _NO_ONSET_S},
    )


def flashes_score(flashes: Flashes, clip: Wave) -> Score:
    """A click within 40 ms of each flash, and no other."""
    found, wanted = click_onsets_s(clip), flashes.onsets_s
    error_s = onset_error_s(found, wanted)
    count = len(wanted)
    by_luck = min(1.0, factorial(count) * (2 * ONSET_TOLERANCE_S / _CLIP_S) ** count)
    return scored(
        {"count": len(found) == count, "onset": error_s <= ONSET_TOLERANCE_S},
        {"count": 1 / MOST_FLASHES, "onset": by_luck},
        {"found": len(found), "onset_error_s": error_s if isfinite(error_s) else _NO_ONSET_S},
    )


def noise_score(noise: Noise, clip: Wave) -> Score:
    """The colour by its slope."""
    slope_db = measured_slope_db(clip)
    right = slope_db is not None and nearest_colour(slope_db) == noise.colour
    measured = {} if slope_db is None else {"slope_db": slope_db}
    return scored({"colour": right}, {"colour": 1 / len(COLOURS)}, measured)


def chord_score(chord: Chord, clip: Wave) -> Score:
    """Root and quality by chroma."""
    found = measured_chord(clip)
    root, quality = found or (-1, "")
    return scored(
        {"root": root == chord.root, "quality": quality == chord.quality},
        {"root": _ROOT_CHANCE, "quality": _QUALITY_CHANCE},
    )


def scene_score(scene: Scene, clip: Wave) -> Score:
    """The chord's quality; any root."""
    found = measured_chord(clip)
    right = found is not None and found[1] == scene.chord.quality
    return scored({"quality": right}, {"quality": _QUALITY_CHANCE})


def arpeggio_score(arpeggio: Arpeggio, clip: Wave) -> Score:
    """Direction, root and quality."""
    chord = Chord(root=arpeggio.root, quality=arpeggio.quality)
    tones = chord_score(chord, clip)
    right = measured_direction(clip) == (1 if arpeggio.rising else -1)
    return scored(
        {
            "direction": right,
            "root": bool(tones.values["root"]),
            "quality": bool(tones.values["quality"]),
        },
        {"direction": 0.5, **tones.chances},
    )


def style_score(melody: Melody, clip: Wave) -> Score:
    """Each note's pitch, and the new wave shape of every note."""
    measured = [measured_tone(part) for part in _parts(melody, clip)]
    pairs = list(zip(measured, melody.notes, strict=True))
    checks = {
        "pitch": all(is_pitch(found[0], note.hz) for found, note in pairs),
        "shape": all(found[1] == note.shape for found, note in pairs),
    }
    chances = {"pitch": _PITCH_CHANCE ** len(pairs), "shape": 1 / (len(SHAPES) - 1)}
    return scored(checks, chances)


def _parts(melody: Melody, clip: Wave) -> list[Wave]:
    """The middle of each note."""
    starts = (melody.onset_s + index * melody.note_s for index in range(len(melody.notes)))
    return [
        clip[samples_of(start + 0.1 * melody.note_s) : samples_of(start + 0.9 * melody.note_s)]
        for start in starts
    ]
