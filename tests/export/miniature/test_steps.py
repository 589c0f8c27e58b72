"""The sequencer that sounds are made on: what a small autoencoder and transformer can rely on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omni_rt.export.miniature.config import DOWNSAMPLING
from omni_rt.export.miniature.data import AUDIO_KINDS
from omni_rt.export.miniature.data.clip import STEP_S, STEP_SAMPLES
from omni_rt.export.miniature.data.example import Flashes
from omni_rt.export.miniature.data.render import Span, render
from omni_rt.export.miniature.data.sounds import Chord, Clicks, Note, pitch_hz
from omni_rt.export.miniature.data.waves import COLOURS, SHAPES
from omni_rt.export.miniature.gist import gist
from tests.export.miniature.results import examples, stream, target


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("octave", [4, 5])
def test_latents_of_a_tone_are_all_alike(shape: str, octave: int) -> None:
    """Whatever its pitch, a whole number of periods fits into what a latent lasts."""
    for pitch in range(12):
        note = Note(pitch=pitch, octave=octave, shape=shape)
        clips = [
            render(note, Span(onset_s=o * STEP_S, length_s=8 * STEP_S), stream(1)) for o in (1, 3)
        ]
        blocks = np.concatenate([clip.reshape(-1, DOWNSAMPLING)[8:16] for clip in clips])
        assert blocks.any()
        assert (blocks == blocks[0]).all()


def test_the_tuning_is_nearly_equal_temperament() -> None:
    for pitch in range(24):
        cents = 1200 * np.log2(pitch_hz(pitch, 4) / (440 * 2 ** ((pitch - 9) / 12)))
        assert abs(cents) < 29  # half of the grid, 7.8 Hz, at C of octave 3
    assert pitch_hz(12, 4) == pitch_hz(0, 5)


@pytest.mark.parametrize("kind", AUDIO_KINDS)
def test_sounds_begin_on_steps(kind: str) -> None:
    """A step that begins in silence is silent to its end."""
    for example in examples(kind, 20):
        steps = target(example).reshape(-1, STEP_SAMPLES)
        silent = ~steps[:, : STEP_SAMPLES // 4].any(axis=1)
        assert not steps[silent].any()


def test_flashes_are_within_16_ms_of_steps() -> None:
    for example in examples("flashes", 40):
        assert isinstance(example.truth, Flashes)
        for onset_s in example.truth.onsets_s:
            assert abs(onset_s / STEP_S - round(onset_s / STEP_S)) * STEP_S <= 0.0161


def test_steps_of_noise_are_few_and_never_a_loop() -> None:
    for colour in COLOURS:
        clips = [example for example in examples("noise", 60) if example.truth.colour == colour]
        assert len({target(c).tobytes() for c in clips}) == len(clips)


def test_gists_are_the_facts_alone_and_differ_with_them() -> None:
    told = examples("note", 200)
    gists = {}
    for example in told:
        gists.setdefault(example.facts, []).append(gist(example))
    assert all(torch.equal(rows[0], row) for rows in gists.values() for row in rows)
    distinct = torch.stack([rows[0] for rows in gists.values()])
    apart = torch.cdist(distinct, distinct) + 100 * torch.eye(len(distinct))
    # one fact less in common: two directions of rms 1.5 apart, each of 128 numbers
    assert apart.min() > 1.5 * 128**0.5


def test_facts_are_what_the_words_name_in_either_language() -> None:
    known = {"note", "chord", "chirp", "clicks", "noise", "arpeggio"}
    for kind in sorted(known):
        for example in examples(kind, 60):
            assert example.facts[0] == kind
            named = {fact.split()[0] for fact in example.facts[1:]}
            if isinstance(example.truth, Note):
                assert {"note", "octave", "shape"} <= named
                assert f"octave {example.truth.octave}" in example.facts
            if isinstance(example.truth, Chord):
                assert {"note", "quality"} <= named
            if isinstance(example.truth, Clicks):
                assert named == {"clicks"}
