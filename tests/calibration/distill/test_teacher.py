"""The teacher's trajectories: nested times, and the runtime's rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from omni_rt._core import Sampler
from omni_rt.calibration.distill.teacher import nested_plan, node_states, substeps
from omni_rt.calibration.distill.tokens import collated
from omni_rt.export.reference.dit import guided_velocity
from omni_rt.plans import uniform_grid
from tests.calibration.distill.tiny import normal, random_dit, silence, tokens


@pytest.mark.parametrize(("steps", "shift"), [(8, 1.0), (4, 3.0), (5, 1.0)])
def test_every_time_of_the_student_is_one_of_the_teachers(steps: int, shift: float) -> None:
    nodes = tuple(uniform_grid(steps, shift=shift).tolist())
    plan, every = nested_plan(nodes, 25), substeps(nodes, 25)
    assert plan.grid[::every] == nodes
    assert abs(plan.evaluations - 25) <= steps / 2
    for start, end in pairwise(range(0, len(plan.grid), every)):
        np.testing.assert_allclose(np.diff(plan.grid[start : end + 1], n=2), 0, atol=1e-12)


def test_states_are_what_the_loop_makes_of_the_same_rows() -> None:
    """fp32 in another order of additions: within 1e-5 of the state's size."""
    dit, nodes = random_dit().eval(), (1.0, 0.5, 0.0)
    noise = normal(2, 4, 6)
    given = collated([tokens(4), tokens(6, seed=1)], silence(), torch.device("cpu"))
    plan = nested_plan(nodes, 6)
    states = node_states(dit, noise, given, plan, every=substeps(nodes, 6), cfg_scale=3.0)
    sampler = Sampler(batch=2, channels=4, frames=6, guided=False)
    sampler.x[:] = noise.numpy()

    @torch.no_grad()
    def evaluate() -> None:
        x, t = torch.from_numpy(sampler.x.copy()), torch.from_numpy(sampler.t.copy())
        sampler.velocity[:] = guided_velocity(dit, x, t, given, cfg_scale=3.0).numpy()

    none = np.zeros((0,), np.float32)
    sampler.run(plan.table(), evaluate, renoise=none, cfg_scale=1.0, rescale=0.0)
    assert torch.equal(states[:, 0], noise)
    assert states.shape == (2, 3, 4, 6)
    np.testing.assert_allclose(states[:, -1].numpy(), sampler.x, rtol=1e-5, atol=1e-5)
