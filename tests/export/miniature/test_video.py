from __future__ import annotations

import numpy as np

from omni_rt.export.miniature.data.example import Flashes, Scene
from omni_rt.export.miniature.data.video import COLOURS, FPS, FRAMES, QUALITY_OF, draw_slow_flashes
from omni_rt.preprocess.frames import spread_indices, understanding_count
from tests.export.miniature.results import examples, stream


def test_flashes_are_where_the_truth_says() -> None:
    for example in examples("flashes", 40):
        assert example.frames is not None
        assert example.frames.shape == (FRAMES, 32, 32, 3)
        bright = example.frames.mean(axis=(1, 2, 3)) > 128
        firsts = np.flatnonzero(bright & ~np.roll(bright, 1))
        assert isinstance(example.truth, Flashes)
        assert tuple(firsts / FPS) == example.truth.onsets_s


def test_slow_flashes_can_be_counted_in_the_frames_that_the_runtime_shows() -> None:
    count = understanding_count(FRAMES / FPS, FRAMES, 768)
    shown = spread_indices(FRAMES, count)
    drawn, counts = stream(8), set()
    for _ in range(40):
        flashes, frames = draw_slow_flashes(drawn)
        assert (frames[list(shown)].mean(axis=(1, 2, 3)) > 128).sum() == flashes
        bright = frames.mean(axis=(1, 2, 3)) > 128
        assert (bright & ~np.concatenate([[False], bright[:-1]])).sum() == flashes
        counts.add(flashes)
    assert counts == {1, 2, 3, 4}


def test_a_scene_has_the_colour_whose_quality_sounds() -> None:
    for example in examples("scene", 40):
        assert example.frames is not None
        seen = example.frames.mean(axis=(0, 1, 2))
        unit = {name: np.array(rgb) / np.linalg.norm(rgb) for name, rgb in COLOURS.items()}
        nearest = max(unit, key=lambda name: float(seen @ unit[name]))
        assert isinstance(example.truth, Scene)
        assert nearest == example.truth.colour
        assert example.truth.chord.quality == QUALITY_OF[nearest]
