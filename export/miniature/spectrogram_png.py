"""The miniature's sounds → a picture of their spectrograms, as the bytes of a PNG."""

from __future__ import annotations

from collections.abc import Sequence

from omni_rt.export.miniature.data.clip import Wave
from omni_rt.spectrogram_png import SEPARATOR_ROWS, panels_png

__all__ = ["COLUMN_SAMPLES", "PANEL_ROWS", "SEPARATOR_ROWS", "spectrogram_png"]

PANEL_ROWS = 256  # 15.6 Hz each, up to 4 kHz
COLUMN_SAMPLES = 32  # 4 ms


def spectrogram_png(clips: Sequence[Wave]) -> bytes:
    """One panel per clip [samples] at 8 kHz, one or more, the first on top; low pitch is below.

    In each panel the loudest piece is brightest, and what is 60 dB below it is dark.
    """
    return panels_png(clips, rows=PANEL_ROWS, column_samples=COLUMN_SAMPLES)
