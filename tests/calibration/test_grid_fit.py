"""Grids that follow how a velocity bends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from omni_rt.calibration.fine_path import FinePath
from omni_rt.calibration.grid_fit import DENSITIES, Density, fitted_grid
from omni_rt.plans import make_plan
from tests.calibration.made_up_fields import SHAPE


def path_of(velocity: Callable[[np.ndarray], np.ndarray], *, steps: int = 64) -> FinePath:
    """A path that is known by its velocities alone, each a number for all of [C, L]."""
    times = np.linspace(1, 0, steps + 1)
    v = velocity(times[:-1])[:, None, None] * np.ones(SHAPE)
    return FinePath(
        times=times, states=np.zeros((steps + 1, *SHAPE), np.float32), velocities=np.float32(v)
    )


@pytest.mark.parametrize(
    "velocity", [lambda t: 0 * t, lambda t: 3 * t + 1, lambda t: t**2], ids=["0", "αt+β", "t²"]
)
@pytest.mark.parametrize("steps", [1, 5, 16])
def test_what_bends_evenly_has_a_uniform_grid(
    velocity: Callable[[np.ndarray], np.ndarray], steps: int
) -> None:
    """t² up to what fp32 makes of its second differences, 2⁻²⁴ of 1 in 2·(1/64)²."""
    grid = fitted_grid([path_of(velocity)], steps, DENSITIES[0])
    assert np.allclose(grid, np.linspace(1, 0, steps + 1), rtol=0, atol=1e-4 if steps else 0)


@pytest.mark.parametrize("centre", [0.2, 0.8])
def test_steps_are_short_where_the_velocity_bends(centre: float) -> None:
    grid = np.array(fitted_grid([path_of(lambda t: np.tanh(20 * (t - centre)))], 8, DENSITIES[0]))
    middles, steps = (grid[:-1] + grid[1:]) / 2, -np.diff(grid)
    near = np.abs(middles - centre) < 0.15
    assert steps[near].max() < steps[~near].min()


@pytest.mark.parametrize("steps", [2, 7, 32])
@pytest.mark.parametrize("density", DENSITIES)
def test_a_fitted_grid_can_be_a_plans_and_no_step_is_too_long(steps: int, density: Density) -> None:
    """One jump: all the bend there is at one place."""
    grid = fitted_grid([path_of(lambda t: (t > 0.5).astype(float))], steps, density)
    assert make_plan(f"ab2-{steps}", grid=grid).grid == grid
    # a fine interval is the least that a density is known for
    assert -np.diff(grid).min() <= 1 / (density.uniform_share * steps) + 1 / 64


def test_cases_count_by_how_much_they_bend() -> None:
    straight, bent = path_of(lambda t: 0 * t), path_of(lambda t: np.tanh(20 * (t - 0.8)))
    alone, both = (fitted_grid(paths, 8, DENSITIES[0]) for paths in ([bent], [straight, bent]))
    assert np.allclose(alone, both)
