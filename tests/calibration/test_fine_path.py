"""Fine trajectories, and their states between the nodes."""

from __future__ import annotations

import numpy as np
import pytest

from omni_rt.calibration.fine_path import FinePath, fine_path
from omni_rt.plans import make_plan
from tests.calibration.made_up_fields import SHAPE, bending, cases, noise_of

COEFFICIENTS = [noise_of(seed).astype(np.float64) for seed in range(4)]


def polynomial_path(degree: int, *, steps: int = 5) -> FinePath:
    """x(t) a polynomial of this degree in every number."""
    times = np.linspace(1, 0, steps + 1)
    terms = list(enumerate(COEFFICIENTS))[: degree + 1]
    states = np.stack([sum(c * t**k for k, c in terms) for t in times])
    velocities = np.stack([sum(k * c * t ** (k - 1) for k, c in terms[1:]) for t in times[:-1]])
    return FinePath(
        times=times, states=states.astype(np.float32), velocities=velocities.astype(np.float32)
    )


@pytest.mark.parametrize(("degree", "last"), [(2, 0.0), (3, 0.2)])
def test_polynomials_are_found_between_nodes(degree: int, last: float) -> None:
    """Cubics where both ends have a velocity, parabolas in the last interval too; fp32 states."""
    path = polynomial_path(degree)
    times = np.linspace(1, last, 23)
    exact = np.stack(
        [sum(c * t**k for k, c in enumerate(COEFFICIENTS[: degree + 1])) for t in times]
    )
    assert np.allclose(path.at(times.tolist()), exact, rtol=0, atol=5e-6)


def test_nodes_are_their_states() -> None:
    path = polynomial_path(3)
    assert np.allclose(path.at(path.times.tolist()), path.states, rtol=0, atol=1e-7)


def test_the_fine_path_is_the_plans() -> None:
    """The last state is what the plan gives, to the bit; the steps are exact in binary."""
    (case,) = cases(bending(2), count=1)
    plan = make_plan("ab3-32")
    path = fine_path(case, plan)
    assert path.states.shape == (33, *SHAPE)
    assert path.velocities.shape == (32, *SHAPE)
    assert np.array_equal(path.states[0], case.noise)
    assert np.array_equal(path.states[-1], case.latents(plan))
    assert np.array_equal(path.velocities[5], case.velocity(path.states[5], plan.rows[5].t))
