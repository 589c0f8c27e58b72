"""Rounding itself: tensors → what is stored, and what that is worth again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omni_rt.calibration.formats import Format
from omni_rt.errors import ExportError

TINY = 1e-12  # a channel, or token, of zeros has some scale, and stays zero
_E4M3_MAX = 448.0
# A block of 4 bits loses less in all if its largest values are cut a little (AWQ, arXiv:2306.00978)
_BLOCK_CUTS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundedMatrix:
    """A matrix [N, K] as integers or E4M3 numbers and scales: [N], or [N, K / block] in blocks."""

    values: Tensor  # int8 (of 4 bits, −8…7) or float8_e4m3fn, [N, K]
    scale: Tensor  # float32

    def dequantised(self) -> Tensor:
        """The matrix [N, K] that is computed with."""
        values = self.values.float()
        if self.scale.ndim == 1:
            return values * self.scale[:, None]
        blocks = values.unflatten(1, (self.scale.shape[1], -1)) * self.scale[..., None]
        return blocks.flatten(1)


def rounded_matrix(
    weight: Tensor, format: Format, *, importance: Tensor | None = None
) -> RoundedMatrix:
    """A matrix [N, K] in a format. Raises ExportError if K is no multiple of its block.

    importance [K]: mean squares of what the columns are multiplied by, for blocks of 4 bits.
    """
    if format.weight == "int4":
        assert format.block is not None
        return _int4(
            weight, format.block, torch.ones(weight.shape[1]) if importance is None else importance
        )
    largest = weight.abs().amax(1).clamp(min=TINY)
    if format.weight == "fp8":
        scale = largest / _E4M3_MAX
        values = (weight / scale[:, None]).to(torch.float8_e4m3fn)
        return RoundedMatrix(values=values, scale=scale)
    scale = largest / 127
    values = (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return RoundedMatrix(values=values, scale=scale)


def _int4(weight: Tensor, block: int, importance: Tensor) -> RoundedMatrix:
    """Scales that leave the least error in the product, not in the matrix."""
    if weight.shape[1] % block:
        raise ExportError(f"a matrix of {weight.shape[1]} inputs has no blocks of {block}")
    blocks, weighing = weight.unflatten(1, (-1, block)), importance.unflatten(0, (-1, block))
    largest = blocks.abs().amax(2, keepdim=True).clamp(min=TINY)
    best_scale, best_error = largest / 7, torch.full_like(largest, torch.inf)
    for cut in _BLOCK_CUTS:
        scale = cut * largest / 7
        rounded = (blocks / scale).round().clamp(-8, 7) * scale
        error = ((rounded - blocks).square() * weighing).sum(2, keepdim=True)
        better = error < best_error
        best_scale = torch.where(better, scale, best_scale)
        best_error = torch.where(better, error, best_error)
    values = (blocks / best_scale).round().clamp(-8, 7).to(torch.int8)
    return RoundedMatrix(values=values.flatten(1), scale=best_scale[..., 0])


def rounded_activation(
    x: Tensor, largest: float, format: Format, *, per_token: bool = False
) -> Tensor:
    """An activation [..., K] as it is computed with: one scale for all of it, cut at `largest`.

    per_token: each of its rows has its own, by the largest of its values.
    """
    if format.activation is None:
        return x
    if per_token:
        sizes = x.abs().amax(-1, keepdim=True).clamp(min=TINY)
        return rounded_activation(x / sizes, 1.0, format) * sizes
    scale = activation_scale(largest, format)
    if format.activation == "fp8":
        return (x / scale).clamp(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn).float() * scale
    return (x / scale).round().clamp(-128, 127) * scale  # unsigned ones are stored around 128


def activation_scale(largest: float, format: Format) -> float:
    """The unit of an activation whose largest absolute value is `largest`."""
    return max(largest, TINY) / format.activation_limit
