"""Weights stored in 16 bits and computed with in fp32: in which type, and when rounding is allowed.

bf16 and fp16 are subsets of fp32, so a weight that is exact in one of them loses nothing. fp16
rounds any other by at most 2^-11 of its size, as long as it neither overflows nor underflows.
"""

from __future__ import annotations

import torch
from torch import Tensor

# It saves 2 KB, of which the Cast with its names takes an eighth.
SMALLEST = 1024
ROUNDING = 2.0**-11  # relative: half a unit in the last place of fp16's 11 bits


def narrowed(value: Tensor, *, may_round: bool) -> Tensor:
    """The same weight in the 16-bit type to store it in, or itself.

    bf16 if exact, fp16 if exact, fp16 rounded if it `may_round`, is no vector, and fp16's range is
    enough. Vectors (biases, scales) take little and move a whole channel: they are never rounded.
    """
    if value.dtype != torch.float32 or value.numel() < SMALLEST:
        return value
    for dtype in (torch.bfloat16, torch.float16):
        half = value.to(dtype)
        if is_exact(half, value):
            return half
    is_vector = sum(size > 1 for size in value.shape) < 2
    half = value.to(torch.float16)
    return half if may_round and not is_vector and _in_range(half, value) else value


def is_exact(half: Tensor, value: Tensor) -> bool:
    """Whether a narrowed tensor has the values it was made from."""
    return torch.equal(half.to(value.dtype), value)


def _in_range(half: Tensor, value: Tensor) -> bool:
    """Whether rounding cost no slice along any axis more than `ROUNDING` of its size.

    Single values below fp16's range may round to 0 beside large ones; a slice of them (a channel
    whose input is large) may not.
    """
    if not torch.isfinite(half).all():
        return False
    error = half.float() - value
    return all(
        bool((_sizes(error, axis) <= ROUNDING * _sizes(value, axis)).all())
        for axis in range(value.ndim)
    )


def _sizes(value: Tensor, axis: int) -> Tensor:
    """Norm of each slice along an axis, in fp64: squares of tiny values are not 0."""
    others = [other for other in range(value.ndim) if other != axis]
    return torch.linalg.vector_norm(value, dim=others, dtype=torch.float64)
