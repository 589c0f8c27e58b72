"""The picture of a demo: a PNG that others read, bright where it sounds."""

from __future__ import annotations

import io

import numpy as np
import pytest

from omni_rt.export.miniature.data import RATE_HZ, Wave
from omni_rt.export.miniature.spectrogram_png import (
    COLUMN_SAMPLES,
    PANEL_ROWS,
    SEPARATOR_ROWS,
    spectrogram_png,
)

image = pytest.importorskip("PIL.Image")


def picture(*clips: Wave) -> np.ndarray:
    """[rows, columns, 3] as Pillow decodes it, which checks the checksums."""
    with image.open(io.BytesIO(spectrogram_png(clips))) as opened:
        assert opened.format == "PNG"
        return np.asarray(opened.convert("RGB")).astype(int)


def tone(hz: float, samples: int = RATE_HZ) -> Wave:
    return np.sin(2 * np.pi * hz * np.arange(samples) / RATE_HZ).astype(np.float32)


def test_panels_are_stacked_and_as_wide_as_the_longest() -> None:
    pixels = picture(tone(500), np.zeros(100, np.float32), tone(500, 2 * RATE_HZ))
    rows = 3 * PANEL_ROWS + 2 * SEPARATOR_ROWS
    assert pixels.shape == (rows, 2 * RATE_HZ // COLUMN_SAMPLES + 1, 3)
    lines = pixels[PANEL_ROWS : PANEL_ROWS + SEPARATOR_ROWS]
    assert (lines == lines[0, 0]).all()
    middle = pixels[PANEL_ROWS + SEPARATOR_ROWS :][:PANEL_ROWS]
    assert (middle == pixels[0, -1]).all()  # silence is as dark as what is not there


@pytest.mark.parametrize("hz", [250.0, 1000.0, 3000.0])
def test_the_brightest_row_is_the_tones_and_high_is_above(hz: float) -> None:
    pixels = picture(tone(hz))
    column = pixels[:, pixels.shape[1] // 2].sum(axis=1)
    assert int(column.argmax()) == PANEL_ROWS - round(hz / (RATE_HZ / 2 / PANEL_ROWS))
    assert column.max() > 650
    assert column.min() < 20


def test_louder_is_lighter() -> None:
    fading = tone(1000) * np.geomspace(1, 1e-4, RATE_HZ).astype(np.float32)
    row = PANEL_ROWS - round(1000 / (RATE_HZ / 2 / PANEL_ROWS))
    light = picture(fading)[row] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light[10:-10]) <= 0.8).all()  # but for the rounding of colours
    assert light[10] > 200
    assert light[-10] < 20
