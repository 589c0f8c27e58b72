"""Video frames → the patches that the thinker's vision tower takes (spec THINKER §2.2, §3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from omni_rt.errors import RequestError
from omni_rt.manifest import ThinkerDims

_TOKEN_PX = 28 * 28  # pixels of a frame that become one token
LEAST_PX = 128 * _TOKEN_PX
MOST_PX = 768 * _TOKEN_PX

_MOST_ASPECT = 200
_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's normalisation: red, green, blue
_STD = (0.26862954, 0.26130258, 0.27577711)


def fitted_size(
    height: int, width: int, *, least_px: float, most_px: float, unit: int = 28
) -> tuple[int, int]:
    """Height and width in multiples of `unit`, aspect kept roughly, area within the two bounds.

    Raises RequestError if a side is 0 or one is more than 200 times the other.
    """
    if min(height, width) < 1 or max(height, width) > _MOST_ASPECT * min(height, width):
        raise RequestError(
            f"a video's frames must have sides in a ratio of at most {_MOST_ASPECT}, "
            f"got {height} × {width}"
        )
    rows, columns = round(height / unit), round(width / unit)  # halves to even, as in the original
    area = rows * columns * unit**2
    if area > most_px:
        shrink = math.sqrt(height * width / most_px)
        rows = max(math.floor(height / shrink / unit), 1)
        columns = max(math.floor(width / shrink / unit), 1)
    elif area < least_px:
        grow = math.sqrt(least_px / (height * width))
        rows, columns = math.ceil(height * grow / unit), math.ceil(width * grow / unit)
    return rows * unit, columns * unit


def understanding_most_px(frames: int) -> float:
    """`most_px` of a video to be understood: long ones share 90 % of 128 000 tokens (§3.5)."""
    shared = 0.9 * 128_000 * _TOKEN_PX * 2 / frames
    return max(min(MOST_PX, shared), 1.05 * LEAST_PX)


def patches(frames: NDArray[np.uint8], thinker: ThinkerDims) -> NDArray[np.float32]:
    """Normalised patches [grids, patches, values] of frames [n, height, width, 3].

    A grid is `temporal_patch` frames, the last one repeated to fill it; grids are independent:
    a long video may come in slices of whole grids. Patches are listed as `patch_tables` says.
    Raises ValueError if there are no frames or a side is not a multiple of patch × merge.
    """
    count, height, width = frames.shape[:3]
    depth, side, merge = thinker.temporal_patch, thinker.patch_px, thinker.merge
    if count == 0 or height % (side * merge) or width % (side * merge):
        raise ValueError(
            f"frames must be [n, height, width, 3], n > 0, sides multiples of {side * merge}; "
            f"got {frames.shape}"
        )
    missing = -count % depth
    whole = np.concatenate([frames, frames[-1:].repeat(missing, axis=0)]) if missing else frames
    down, across = height // (side * merge), width // (side * merge)
    split = whole.reshape(-1, depth, down, merge, side, across, merge, side, 3)
    # grid, block down, block across, patch down, patch across, colour, frame, row, column
    ordered = split.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    pixels = np.empty(ordered.shape, np.float32)
    for colour, table in enumerate(_normalised_levels()):
        pixels[:, :, :, :, :, colour] = table[ordered[:, :, :, :, :, colour]]
    return pixels.reshape(len(pixels), -1, thinker.patch_values)


def _normalised_levels() -> NDArray[np.float32]:
    """[3, 256]: what each grey level of each colour becomes."""
    mean, std = np.array(_MEAN, np.float32)[:, None], np.array(_STD, np.float32)[:, None]
    return (np.arange(256, dtype=np.float32) / np.float32(255) - mean) / std


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchTables:
    """Where the patches of one grid lie, in the tower's order: merged blocks, then in a block."""

    pos_hw: NDArray[np.int64]  # [patches, 2]: row and column
    window_id: NDArray[np.int64]  # [patches]: equal ids see each other in local attention


@lru_cache(maxsize=16)
def patch_tables(rows: int, columns: int, thinker: ThinkerDims) -> PatchTables:
    """The tables of a grid of so many patches down and across. Shared: the arrays are read-only.

    Windows at the right and the bottom are smaller if the sides are no multiples.
    Raises ValueError if a side is not a multiple of merge.
    """
    merge = thinker.merge
    if rows % merge or columns % merge:
        raise ValueError(f"a grid's sides must be multiples of {merge}, got {rows} × {columns}")
    raster = np.indices((rows, columns), dtype=np.int64)
    blocks = raster.reshape(2, rows // merge, merge, columns // merge, merge)
    row, column = blocks.transpose(0, 1, 3, 2, 4).reshape(2, -1)
    window = thinker.window_px // (thinker.patch_px * merge) * merge
    tables = PatchTables(
        pos_hw=np.stack([row, column], axis=1),
        window_id=row // window * math.ceil(columns / window) + column // window,
    )
    tables.pos_hw.flags.writeable = tables.window_id.flags.writeable = False
    return tables
