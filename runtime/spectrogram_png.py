"""Sounds → a picture of their spectrograms, as the bytes of a PNG. NumPy and zlib only."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from omni_rt.spectrum import Power, power_spectrogram

SEPARATOR_ROWS = 3
RANGE_DB = 60.0

_SEPARATOR = 255  # in the palette; levels are 0 to 254
# From dark violet to pale yellow, each lighter than the one before, also to those who see no red.
_COLOURS = ((0, 0, 4), (60, 15, 110), (140, 41, 129), (222, 73, 104), (254, 159, 109))
_BRIGHTEST, _GREY = (252, 253, 191), (150, 150, 150)

Indices = NDArray[np.uint8]  # [rows, columns] into the palette


def panels_png(
    clips: Sequence[NDArray[np.floating]],
    *,
    rows: int,
    column_samples: int,
    loudest: float | None = None,
) -> bytes:
    """One panel per clip [samples], one or more, the first on top; low pitch is below.

    A panel is `rows` high, from 0 to half the rate, and a column is `column_samples` of time.
    Power `loudest` (a sine of amplitude 1 has 1) is brightest, and what is 60 dB below is dark; of
    each panel its own loudest if it is not given.
    """
    spectra = [panel_power(clip, rows=rows, column_samples=column_samples) for clip in clips]
    panels = [_levels(power, loudest) for power in spectra]
    columns = max(panel.shape[1] for panel in panels)
    line = np.full((SEPARATOR_ROWS, columns), _SEPARATOR, np.uint8)
    stacked = []
    for panel in panels:
        stacked += [line, np.pad(panel, ((0, 0), (0, columns - panel.shape[1])))]
    return _png(np.concatenate(stacked[1:]), _palette())


def panel_power(clip: NDArray[np.floating], *, rows: int, column_samples: int) -> Power:
    """Power [rows, columns] of a clip [samples], high pitch first.

    Frames are 2 · rows samples; a column longer than half of that is the mean of the frames in it.
    """
    hop = min(column_samples, rows)
    power = power_spectrogram(clip, window=2 * rows, hop=hop)[:, 1:]
    if column_samples > hop:
        starts = np.ceil(np.arange(0, len(power) * hop, column_samples) / hop).astype(np.int64)
        starts = starts[starts < len(power)]
        counts = np.diff(starts, append=len(power))
        power = np.add.reduceat(power, starts) / counts[:, None]
    return power.T[::-1]


def _levels(power: Power, loudest: float | None) -> Indices:
    brightest = float(power.max(initial=0.0)) if loudest is None else loudest
    if brightest == 0:
        return np.zeros(power.shape, np.uint8)
    level_db = 10 * np.log10(np.maximum(power / brightest, 1e-12))
    levels = np.clip(1 + level_db / RANGE_DB, 0, 1) * (_SEPARATOR - 1)
    return np.rint(levels).astype(np.uint8)


def _palette() -> Indices:
    """[256, 3]: the colours of all levels, and of the separator."""
    anchors = np.array((*_COLOURS, _BRIGHTEST), np.float64)
    at = np.linspace(0, len(anchors) - 1, _SEPARATOR)
    levels = [np.interp(at, np.arange(len(anchors)), channel) for channel in anchors.T]
    return np.concatenate([np.rint(np.stack(levels, axis=1)), [_GREY]]).astype(np.uint8)


def _png(pixels: Indices, palette: Indices) -> bytes:
    """Pixels that are indices into a palette [256, 3], by the PNG specification, third edition."""
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, palette, no interlace
    unfiltered = np.pad(pixels, ((0, 0), (1, 0)))  # a row begins with its filter: 0, none
    parts = (
        (b"IHDR", header),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(unfiltered.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
