"""Times for a few steps, placed by how much the velocity bends along fine trajectories.

A step of two-point Adams-Bashforth errs by Δ³·|v''| (times 5/12, |·| over the path), so steps that
all err alike have a density of nodes, in time, of |v''|^(1/3). Half of the density is kept uniform:
v'' is a second difference of what a network says, and no step becomes longer than two uniform ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from omni_rt.calibration.fine_path import FinePath

_UNIFORM_SHARE = 0.5


def fitted_grid(paths: Sequence[FinePath], steps: int) -> tuple[float, ...]:
    """Times [steps + 1] from 1 to 0. `paths`: on one uniform grid of more than two steps.

    Uniform where the velocity bends evenly, or not at all.
    """
    times = paths[0].times
    cells = _density(_bend(paths))  # of the intervals between fine times
    share = np.concatenate([[0.0], np.cumsum(cells)]) / cells.sum()
    grid = np.interp(np.arange(1, steps) / steps, share, times)
    return (float(times[0]), *grid.tolist(), float(times[-1]))


def _bend(paths: Sequence[FinePath]) -> NDArray[np.float64]:
    """|v''| (rms over cases) times the fine step squared, at times with a neighbour either side."""
    squares = [
        np.square(np.diff(path.velocities.astype(np.float64), n=2, axis=0)).mean((1, 2))
        for path in paths
    ]
    bend: NDArray[np.float64] = np.sqrt(np.mean(squares, axis=0))
    return bend


def _density(bend: NDArray[np.float64]) -> NDArray[np.float64]:
    """Per interval between fine times; mean 1. The outer intervals are as their neighbours."""
    nodes = np.concatenate([bend[:1], bend, bend[-1:], bend[-1:]]) ** (1 / 3)
    cells = (nodes[1:] + nodes[:-1]) / 2
    mean = cells.mean()
    flat = np.ones_like(cells)
    if not mean > 0:
        return flat
    mixed: NDArray[np.float64] = _UNIFORM_SHARE * flat + (1 - _UNIFORM_SHARE) * cells / mean
    return mixed
