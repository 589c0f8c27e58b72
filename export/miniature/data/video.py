"""Silent videos: flashes in the dark, coloured scenes. 25 frames a second for 2 s."""

from __future__ import annotations

import numpy as np

from omni_rt.export.miniature.data.clip import STEP_S, STEPS, Frames, Stream

FPS = 25
FRAMES = 50
SIDE_PX = 32

MOST_FLASHES = 5
_FLASH_FRAMES = 2
_LEAST_GAP_STEPS = 2

# A question is answered from four frames, spread over the video: slow flashes lie around them.
_SEEN_FRAMES = (0, 16, 33, 49)
MOST_SLOW_FLASHES = len(_SEEN_FRAMES)
_SLOW_HALF_FRAMES = 4

COLOURS = {
    "red": (215, 40, 35),
    "blue": (35, 60, 215),
    "green": (40, 180, 50),
    "yellow": (220, 205, 40),
}
QUALITY_OF = {"red": "major", "blue": "minor", "green": "sus", "yellow": "dim"}


def draw_flash_frames(stream: Stream) -> tuple[int, ...]:
    """The first frames of 1 to 5 flashes, ascending: the nearest to steps, at most 16 ms off."""
    count = 1 + int(stream.randint(MOST_FLASHES))
    more = _LEAST_GAP_STEPS - 1
    room = STEPS - (count - 1) * more
    steps = np.sort(stream.permutation(room)[:count]) + np.arange(count) * more
    return tuple(round(int(step) * STEP_S * FPS) for step in steps)


def flashes(firsts: tuple[int, ...], stream: Stream) -> Frames:
    """A dark scene [50, 32, 32, 3] that is white for two frames from each of these on."""
    lit = np.zeros(FRAMES, dtype=bool)
    for first in firsts:
        lit[first : first + _FLASH_FRAMES] = True
    return _lit_scene(lit, stream)


def draw_slow_flashes(stream: Stream) -> tuple[int, Frames]:
    """1 to 4 long flashes with darkness between them, and their video."""
    count = 1 + int(stream.randint(MOST_SLOW_FLASHES))
    lit = np.zeros(FRAMES, dtype=bool)
    for frame in stream.permutation(_SEEN_FRAMES)[:count]:
        lit[max(0, frame - _SLOW_HALF_FRAMES) : frame + _SLOW_HALF_FRAMES + 1] = True
    return count, _lit_scene(lit, stream)


def coloured_scene(colour: str, stream: Stream) -> Frames:
    """One colour [50, 32, 32, 3], shaded from corner to corner, flickering a little."""
    base = np.array(COLOURS[colour]) * stream.uniform(0.75, 1.0)
    across = np.linspace(-0.5, 0.5, SIDE_PX)
    slopes = stream.uniform(-0.25, 0.25, 2)
    shade = 1 + slopes[0] * across[:, None] + slopes[1] * across[None, :]
    flicker = 1 + stream.uniform(-0.03, 0.03, FRAMES)
    still = base * shade[:, :, None]
    return np.clip(flicker[:, None, None, None] * still, 0, 255).astype(np.uint8)


def _lit_scene(lit: np.ndarray, stream: Stream) -> Frames:
    dark = stream.randint(0, 45, 3) + stream.randint(0, 15, (SIDE_PX, SIDE_PX, 1))
    light = np.full((SIDE_PX, SIDE_PX, 3), stream.randint(225, 256))
    return np.where(lit[:, None, None, None], light, dark).astype(np.uint8)
