"""Rounding itself: tensors → what is stored, and what that is worth again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omni_rt.calibration.formats import Format
from omni_rt.errors import ExportError

TINY = 1e-12  # a channel, or token, of zeros has some scale, and stays zero
_E4M3_MAX = 448.0
_STORED = {"int8": torch.int8, "int4": torch.int8, "fp8": torch.float8_e4m3fn}
_LARGEST = {"int8": 127, "int4": 7, "fp8": _E4M3_MAX}  # weights, in units of their scale
# A ridge: what a matrix reads is known by a few hundred rows, and directions that these lack must
# keep some weight. Of the middle channel's square, so that an outlier does not drown the others:
# judged by rows of other cases, all matrices of the miniature are better than rounded to nearest.
_RIDGE = 0.1
_LEAST_RIDGE = 1e-9  # of the mean square: where most channels are never read
_CHANNELS_AT_ONCE = 128
_ROWS_AT_ONCE = 8192  # of a matrix: they are independent, and a language model's head has 150,000
# A block of 4 bits loses less in all if its largest values are cut a little (AWQ, arXiv:2306.00978)
_BLOCK_CUTS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundedMatrix:
    """A matrix [N, K] as integers or E4M3 numbers and scales: [N], or [N, K / block] in blocks."""

    values: Tensor  # int8 (of 4 bits, −8…7) or float8_e4m3fn, [N, K]
    scale: Tensor  # float32

    def dequantised(self) -> Tensor:
        """The matrix [N, K] that is computed with."""
        return self.values.float() * _units(self.scale, self.values)


def rounded_matrix(
    weight: Tensor, format: Format, *, importance: Tensor | None = None
) -> RoundedMatrix:
    """A matrix [N, K] in a format, each value the nearest.

    importance [K]: mean squares of what the columns are multiplied by, for blocks of 4 bits.
    Raises ExportError if K is no multiple of its block.
    """
    scale = _scale(weight, format, importance)
    values = _nearest(weight / _units(scale, weight), format)
    return RoundedMatrix(values=values.to(_STORED[format.weight]), scale=scale)


def compensated_matrix(weight: Tensor, format: Format, read: Tensor) -> RoundedMatrix:
    """A matrix [N, K] in a format that loses least of its product with `read` [n, K].

    One input channel is rounded after the other, and those to come make up for what it lost: with
    the Gram matrix of what is read, H = RᵀR, the loss is ‖R e‖² of the errors e, so channel k is
    best aimed at e_k = −Σ_{j>k} R_kj e_j / R_kk. This is GPTQ (arXiv:2210.17323) written as the
    nearest-plane rounding that it is (arXiv:2507.18553). Channels that are read most go first,
    while most others are left. The scales are those of `rounded_matrix`.
    Raises ExportError if K is no multiple of the format's block, or `read` is not finite.
    """
    if not torch.isfinite(read).all():
        raise ExportError("what a matrix is to be rounded for is not finite")
    if not read.any():
        return rounded_matrix(weight, format)
    scale = _scale(weight, format, read.square().mean(0))
    root, order = _ordered_root(read)
    stored = torch.empty(weight.shape, dtype=_STORED[format.weight])
    for part in torch.arange(len(weight)).split(_ROWS_AT_ONCE):
        unit = _units(scale[part], weight[part]).expand(len(part), weight.shape[1])
        values = _nearest_plane(weight[part][:, order].T, unit[:, order].T, root, format)
        stored[part[:, None], order] = values.T.to(stored.dtype)
    return RoundedMatrix(values=stored, scale=scale)


def _nearest_plane(exact: Tensor, unit: Tensor, root: Tensor, format: Format) -> Tensor:
    """Values [K, N] of a matrix [K, N] with these units: the last channel first."""
    values, lost = torch.empty_like(exact), torch.zeros_like(exact)
    for end in range(len(exact), 0, -_CHANNELS_AT_ONCE):
        begin = max(0, end - _CHANNELS_AT_ONCE)
        aims = exact[begin:end] + root[begin:end, end:] @ lost[end:]
        for k in range(end - 1, begin - 1, -1):
            aim = aims[k - begin] + root[k, k + 1 : end] @ lost[k + 1 : end]
            values[k] = _nearest(aim / unit[k], format)
            lost[k] = exact[k] - values[k] * unit[k]
    return values


def _ordered_root(read: Tensor) -> tuple[Tensor, Tensor]:
    """R of H = RᵀR, each row in units of its diagonal, and the order of its channels.

    The last are rounded first: what they lose is made up for by those before them.
    """
    squares = read.square().sum(0, dtype=torch.float64)
    order = squares.argsort(stable=True)
    own = read[:, order].double()
    gram = own.T @ own
    gram.diagonal().add_(_RIDGE * squares.median() + _LEAST_RIDGE * squares.mean())
    root = torch.linalg.cholesky(gram, upper=True)
    return (root / root.diagonal()[:, None]).float(), order


def _scale(weight: Tensor, format: Format, importance: Tensor | None) -> Tensor:
    """[N], or [N, K / block] in blocks: what the largest values ask for, or somewhat less."""
    if format.block is None:
        return weight.abs().amax(1).clamp(min=TINY) / _LARGEST[format.weight]
    return _block_scales(
        weight, format.block, torch.ones(weight.shape[1]) if importance is None else importance
    )


def _units(scale: Tensor, weight: Tensor) -> Tensor:
    """The scale of every value: [N, 1], or [N, K] in blocks."""
    if scale.ndim == 1:
        return scale[:, None]
    return scale.repeat_interleave(weight.shape[1] // scale.shape[1], 1)


def _nearest(x: Tensor, format: Format) -> Tensor:
    """The nearest numbers that a weight can be, in units of its scale, as float32."""
    if format.weight == "fp8":
        return x.clamp(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn).float()
    largest = _LARGEST[format.weight]
    # in blocks, whose scales may cut, 4 bits reach to -8
    return x.round().clamp(-largest - (format.block is not None), largest)


def _block_scales(weight: Tensor, block: int, importance: Tensor) -> Tensor:
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
    return best_scale[..., 0]


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
