"""Pictures of sound of any rate and length; the miniature's are tested with its demo."""

from __future__ import annotations

import io

import numpy as np
import pytest

from omni_rt.spectrogram_png import panel_power, panels_png

image = pytest.importorskip("PIL.Image")


def test_a_clip_of_any_length_has_columns_of_equal_time() -> None:
    for samples in (1, 100, 5000, 44_100):
        for column in (10, 32, 33, 500):
            power = panel_power(np.ones(samples), rows=32, column_samples=column)
            assert power.shape[0] == 32
            assert abs(power.shape[1] - samples / column) <= 1


def test_a_long_column_leaves_nothing_out() -> None:
    clip = np.zeros(10_000)
    clip[4321] = 1.0
    power = panel_power(clip, rows=16, column_samples=1000).sum(axis=0)
    assert power.argmax() == 4
    assert power[4] > 0


def test_two_panels_can_share_their_brightness() -> None:
    loud = np.sin(np.arange(4000))
    shared = panels_png([loud, 0.01 * loud], rows=32, column_samples=32, loudest=1.0)
    own = panels_png([loud, 0.01 * loud], rows=32, column_samples=32)
    with image.open(io.BytesIO(shared)) as first, image.open(io.BytesIO(own)) as second:
        dark, bright = (
            np.asarray(opened.convert("RGB"), int)[35:].max() for opened in (first, second)
        )
    assert dark < bright
