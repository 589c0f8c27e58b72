"""Films to be seen while a model is observed: drawn from a seeded stream."""

from __future__ import annotations

import numpy as np

from omni_rt.calibration.mixing import Stream
from omni_rt.export.miniature.data.video import FPS
from omni_rt.preprocess.resize import Pixels

_HEIGHT, _WIDTH, _TILE = 96, 128, 8


def film_frames(stream: Stream, count: int) -> Pixels:
    """Pictures [count, 96, 128, 3]: a ball before moving stripes on a still texture, and flashes.

    Edges, smooth shades, noise and motion at once, since the towers see all of them in real life.
    """
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH] / _HEIGHT
    tiles = stream.randint(0, 130, (_HEIGHT // _TILE, _WIDTH // _TILE, 3))
    texture = np.kron(tiles * stream.uniform(0.1, 1), np.ones((_TILE, _TILE, 1)))
    texture += stream.randint(0, 25, (*rows.shape, 1))
    across, down, speed, pace = stream.uniform((-5, -5, -2, 0.1), (5, 5, 2, 1.0))
    tint, colour = stream.uniform(0, 60, 3), stream.randint(0, 256, 3)
    radius, lit = stream.uniform(0.06, 0.25), stream.uniform(size=count) < 0.04
    frames = np.empty((count, _HEIGHT, _WIDTH, 3), np.uint8)
    for n in range(count):
        turns = across * columns + down * rows + speed * n / FPS
        picture = texture + tint * (1 + np.sin(2 * np.pi * turns))[..., None]
        at = 2 * np.pi * pace * n / FPS
        ball = np.hypot(rows - 0.5 - 0.3 * np.sin(at), columns - 0.67 - 0.5 * np.cos(0.7 * at))
        picture[ball < radius] = colour
        frames[n] = np.clip(picture + 120 * lit[n], 0, 255)
    return frames
