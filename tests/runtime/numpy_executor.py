"""Plan rows executed in plain NumPy fp32, terms added in the order of csrc/core/step.cpp."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Velocity = Callable[[Floats, np.float32], Floats]  # x [rows, C, L] and t → v of the same shape


def execute(
    table: NDArray[np.float64],
    start: Floats,
    velocity: Velocity,
    *,
    guided: bool,
    cfg_scale: float = 1.0,
    rescale: float = 0.0,
    renoise: Floats | None = None,
) -> Floats:
    """Latents [B, C, L] from `start`; `renoise` is [rows with c ≠ 0, B, C, L]."""
    x = start.astype(np.float32)
    ring = [np.zeros_like(x) for _ in range(3)]
    fresh = iter(() if renoise is None else renoise)
    for t, p, q, a, b0, b1, b2, c in table.astype(np.float32):
        v = velocity(np.concatenate([x, x]) if guided else x, t)
        if guided:
            v = mixed(*np.split(v, 2), cfg_scale=cfg_scale, rescale=rescale)
        h = p * x + q * v
        ring = [h, *ring[:2]]
        x = a * x + b0 * h
        x = x + b1 * ring[1]
        x = x + b2 * ring[2]
        if c != 0:
            x = x + c * next(fresh)
    assert x.dtype == np.float32
    return x


def mixed(conditional: Floats, other: Floats, *, cfg_scale: float, rescale: float) -> Floats:
    """Guidance, then the rescale of UPSTREAM §3 over the channel axis."""
    v = other + np.float32(cfg_scale) * (conditional - other)
    if rescale == 0:
        return v
    phi = np.float32(rescale)
    ratio = conditional.std(axis=1, ddof=1, keepdims=True) / v.std(axis=1, ddof=1, keepdims=True)
    return v * (phi * ratio + (1 - phi))
