"""Frames as a video file: what the runtime reads is what was drawn."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from omni_rt.export.miniature.data.video import FPS, FRAMES
from omni_rt.export.miniature.film import what_video_needs, write_film
from omni_rt.preprocess.resize import squashed
from omni_rt.video import probe, understanding_frames, windows
from tests.export.miniature.results import examples

pytest.importorskip("av")


@pytest.mark.parametrize("kind", ["flashes", "scene"])
def test_a_film_is_read_as_it_was_drawn(kind: str, tmp_path: Path) -> None:
    assert what_video_needs() is None
    for number, example in enumerate(examples(kind, 3)):
        assert example.frames is not None
        film = write_film(example.frames, tmp_path / f"{number}.mkv")
        info = probe(film)
        assert (info.width, info.height, info.fps) == (32, 32, Fraction(FPS))
        assert info.duration_s == FRAMES / FPS
        assert not info.has_audio
        (window,) = windows(film, window_s=2)
        shown = np.stack([squashed(frame, 224, 224) for frame in example.frames])
        assert np.array_equal(window.sync_frames, shown)


@pytest.mark.parametrize("kind", ["ask_flashes", "ask_colour"])
def test_the_thinker_is_shown_four_of_its_frames(kind: str, tmp_path: Path) -> None:
    (example,) = examples(kind, 1)
    assert example.frames is not None
    film = write_film(example.frames, tmp_path / "film.mkv")
    seen = understanding_frames(film, size=lambda n, height, width: (height, width))
    assert np.array_equal(seen, example.frames[[0, 16, 33, 49]])
