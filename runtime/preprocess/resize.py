"""Pictures [H, W, 3] of 8 bits at the sizes that the models take. Needs Pillow for bicubic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_rt.errors import RequestError

Pixels = NDArray[np.uint8]
NEEDED = "video needs PyAV and Pillow: pip install 'omni_rt[video]'"

_BLOCK = 16  # outputs that are summed at once: they stay in the cache
_NEAR = 1e-3  # a fast value this near to a half may round the wrong way: fp32 errs by 5e-4 at most
_CHUNK = 2048


def squashed(frame: Pixels, height: int, width: int) -> Pixels:
    """Exactly [height, width, 3], ignoring the aspect: antialiased bilinear, fp32, half to even.

    Equal to torch's interpolate(antialias=True).round() to the bit (spec SYNCHFORMER §2A): fast
    sums give the values, and those near a half are summed again in torch's order.
    """
    frame = _checked(frame, height, width)
    if frame.shape[:2] == (height, width):
        return frame
    rows, columns = _taps(frame.shape[0], height), _taps(frame.shape[1], width)
    tall = _sums(rows, frame.reshape(len(frame), -1)).reshape(height, -1, 3)
    wide = _sums(columns, tall.transpose(1, 0, 2).reshape(-1, height * 3))
    fast = wide.reshape(width, height, 3).transpose(1, 0, 2)
    out = np.rint(fast)
    for points in _chunks(np.nonzero(np.abs(fast - np.floor(fast) - 0.5) < _NEAR)):
        out[points] = np.rint(_as_torch(frame, rows, columns, points))
    return out.clip(0, 255).astype(np.uint8)


def bicubic(frame: Pixels, height: int, width: int) -> Pixels:
    """Exactly [height, width, 3], ignoring the aspect: Pillow's bicubic on 8 bits."""
    frame = _checked(frame, height, width)
    if frame.shape[:2] == (height, width):
        return frame
    image = pillow()
    resized = image.fromarray(frame).resize((width, height), image.Resampling.BICUBIC)
    return np.asarray(resized, np.uint8)


def cropped(frame: Pixels, size: int) -> Pixels:
    """The middle [size, size, 3] after the short side became `size` (spec SYNCHFORMER §2B).

    Within 2 of 255 of torchvision's fixed-point bicubic on the golden pictures.
    """
    height, width = _checked(frame, size, size).shape[:2]
    short = min(height, width)
    height, width = size * height // short, size * width // short
    top, left = round((height - size) / 2), round((width - size) / 2)
    return bicubic(frame, height, width)[top : top + size, left : left + size]


def normalised(frames: Pixels) -> NDArray[np.float32]:
    """[n, h, w, 3] of 8 bits → float32 [n, 3, h, w] in [−1, 1]."""
    scaled = (frames.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def pillow() -> Any:
    """PIL.Image. Raises RequestError naming the extra if it is not installed."""
    try:
        import PIL.Image
    except ImportError as error:
        raise RequestError(NEEDED) from error
    return PIL.Image


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Taps:
    """The inputs that each output is made of, and their weights; fp32 sums as torch takes them."""

    inputs: NDArray[np.int64]  # [outputs, taps]
    weights: NDArray[np.float32]  # [outputs, taps], zeros where there are fewer


@lru_cache(maxsize=32)
def _taps(inputs: int, outputs: int) -> _Taps:
    one, half = np.float32(1), np.float32(0.5)
    scale = np.float32(inputs) / np.float32(outputs)
    reach = max(scale, one)
    centre = scale * (np.arange(outputs, dtype=np.float32) + half)
    first = np.maximum((centre - reach + half).astype(np.int64), 0)
    count = np.minimum((centre + reach + half).astype(np.int64), inputs) - first
    tap = np.arange(count.max())
    offset = (tap + first[:, None]).astype(np.float32) - centre[:, None] + half
    weights = np.maximum(one - np.abs(offset * (one / reach)), np.float32(0))
    weights[tap >= count[:, None]] = 0
    total = np.zeros(outputs, np.float32)
    for column in weights.T:
        total += column
    weights /= total[:, None]
    return _Taps(inputs=np.minimum(first[:, None] + tap, inputs - 1), weights=weights)


def _sums(taps: _Taps, values: NDArray[Any]) -> NDArray[np.float32]:
    """[inputs, n] → [outputs, n], to fp32's rounding. No BLAS: its threads wait for cores."""
    out = np.zeros((len(taps.inputs), values.shape[1]), np.float32)
    for begin in range(0, len(out), _BLOCK):
        rows = slice(begin, begin + _BLOCK)
        for inputs, weights in zip(taps.inputs[rows].T, taps.weights[rows].T, strict=True):
            out[rows] += values[inputs] * weights[:, None]
    return out


_Points = tuple[NDArray[np.int64], ...]  # rows, columns and colours of some pixels


def _chunks(points: _Points) -> list[_Points]:
    return [
        tuple(axis[at : at + _CHUNK] for axis in points) for at in range(0, len(points[0]), _CHUNK)
    ]


def _as_torch(frame: Pixels, rows: _Taps, columns: _Taps, points: _Points) -> NDArray[np.float32]:
    """Some pixels as torch sums them: along the row, then down, by fused multiply-adds."""
    y, x, colour = points
    down, along = rows.inputs[y], columns.inputs[x]
    patch = frame[
        down[:, :, None], along[:, None, :], colour[:, None, None]
    ]  # [points, down, along]
    across = _fused(np.moveaxis(patch, 2, 0), columns.weights[x].T[:, :, None])
    return _fused(across.T, rows.weights[y].T)


def _fused(values: NDArray[Any], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Σ over the first axis; fp64 holds a product of two fp32 numbers exactly."""
    total = np.zeros(values.shape[1:], np.float32)
    for value, weight in zip(values, weights, strict=True):
        total = (value.astype(np.float64) * weight + total).astype(np.float32)
    return total


def _checked(frame: Pixels, height: int, width: int) -> Pixels:
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape or frame.dtype != np.uint8:
        raise RequestError(
            f"a picture must be uint8 [height, width, 3], got {frame.dtype} {frame.shape}"
        )
    if height < 1 or width < 1:
        raise RequestError(f"a picture cannot become {height} × {width}")
    return frame
