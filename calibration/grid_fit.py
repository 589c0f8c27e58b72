"""Times for a few steps, placed by how much the velocity bends along fine trajectories.

A step of two-point Adams-Bashforth errs by Δ³·|v''| (times 5/12, |·| over the path), so steps that
all err alike have a density of nodes, in time, of |v''|^(1/3). A part of the density is kept
uniform: v'' is a second difference of what a network says, and no step may become too long. Fitted
rows err otherwise than Adams-Bashforth's, so several densities are there to be tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_rt.calibration.fine_path import FinePath


@dataclass(frozen=True, slots=True, kw_only=True)
class Density:
    """How nodes follow the bend: |v''|^exponent, but for a share that is uniform."""

    exponent: float
    uniform_share: float


# From the careful to the bold; no step is longer than 1 / uniform_share of the uniform ones.
DENSITIES = (
    Density(exponent=1 / 3, uniform_share=0.5),
    Density(exponent=1 / 3, uniform_share=0.1),
    Density(exponent=1 / 2, uniform_share=0.03),
)


def fitted_grid(paths: Sequence[FinePath], steps: int, density: Density) -> tuple[float, ...]:
    """Times [steps + 1] from 1 to 0. `paths`: on one uniform grid of more than two steps.

    Uniform where the velocity bends evenly, or not at all.
    """
    times = paths[0].times
    cells = _cells(_bend(paths), density)  # of the intervals between fine times
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


def _cells(bend: NDArray[np.float64], density: Density) -> NDArray[np.float64]:
    """Per interval between fine times; mean 1. The outer intervals are as their neighbours."""
    nodes = np.concatenate([bend[:1], bend, bend[-1:], bend[-1:]]) ** density.exponent
    cells = (nodes[1:] + nodes[:-1]) / 2
    mean = cells.mean()
    flat = np.ones_like(cells)
    if not mean > 0:
        return flat
    share = density.uniform_share
    mixed: NDArray[np.float64] = share * flat + (1 - share) * cells / mean
    return mixed
