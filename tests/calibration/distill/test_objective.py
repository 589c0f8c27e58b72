"""What the student is taught."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from omni_rt.calibration.distill.objective import Lessons, velocity_of
from omni_rt.calibration.distill.shards import Pair
from omni_rt.calibration.distill.teacher import Conditioning
from tests.calibration.distill.tiny import (
    FRAMES,
    NODES,
    SIZES,
    normal,
    pair,
    random_dit,
    random_pairs,
    silence,
)

CPU = torch.device("cpu")
SHAPE = (SIZES.latent_channels, FRAMES)


def straight_pairs(count: int) -> list[Pair]:
    """Trajectories whose velocity is 2 in the first half and −1 in the second."""
    found = []
    for i in range(count):
        nodes = [normal(*SHAPE, seed=i).mul(4).round() / 4]  # exact in fp16
        for now, after in pairwise(NODES):
            nodes.append(nodes[-1] + (after - now) * piecewise(torch.tensor(now)))
        found.append(pair(torch.stack(nodes), seed=i))
    return found


def piecewise(t: Tensor) -> Tensor:
    return torch.where(t > 0.5, 2.0, -1.0)


def constant(x: Tensor, t: Tensor, _: Conditioning) -> Tensor:
    return piecewise(t)[:, None, None].expand_as(x)


def test_a_velocity_that_is_constant_along_each_segment_has_nothing_to_learn() -> None:
    lessons = Lessons(straight_pairs(3), constant, NODES, silence(), CPU)
    every = range(3 * lessons.segments)
    assert float(lessons.segment_loss(list(every))) < 1e-12
    assert float(lessons.tracking_loss([0, 1, 2])) < 1e-12
    assert lessons.error([0, 1, 2]) < 1e-6


def test_the_segment_loss_is_the_distance_from_the_straight_way() -> None:
    pairs = random_pairs(2)
    lessons = Lessons(pairs, lambda x, t, _: torch.zeros_like(x), NODES, silence(), CPU)
    for lesson in range(2 * lessons.segments):
        nodes, i = pairs[lesson // 4].nodes.float(), lesson % 4
        way = (nodes[i + 1] - nodes[i]) / (NODES[i + 1] - NODES[i])
        found = float(lessons.segment_loss([lesson]))
        assert found == pytest.approx(float(way.square().mean()), rel=1e-5)


def test_tracking_aims_from_where_the_student_is_at_the_teachers_next_state() -> None:
    """A student that stands still is asked for the whole way from its noise, at every time."""
    (only,) = random_pairs(1)
    lessons = Lessons([only], lambda x, t, _: torch.zeros_like(x), NODES, silence(), CPU)
    nodes = only.nodes.float()
    ways = [(nodes[i + 1] - nodes[0]) / (NODES[i + 1] - NODES[i]) for i in range(4)]
    expected = float(torch.stack(ways).square().mean())
    assert float(lessons.tracking_loss([0])) == pytest.approx(expected, rel=1e-5)


def test_no_gradient_flows_along_the_way() -> None:
    """Each state is detached: a loss of one row is that row's alone, to the bit."""
    dit = random_dit()
    lessons = Lessons(random_pairs(2), velocity_of(dit), NODES, silence(), CPU)
    assert not any(x.requires_grad for x in lessons.rolled_out(normal(1, *SHAPE), given(lessons)))
    lessons.tracking_loss([0, 1]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in dit.parameters())


def given(lessons: Lessons) -> Conditioning:
    return lessons._given([0])[1]


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    """Prompts of different lengths are padded and hidden: the mean of single losses (fp32)."""
    lessons = Lessons(random_pairs(3), velocity_of(random_dit()), NODES, silence(), CPU)
    chosen = [1, 6, 11]
    with torch.no_grad():
        alone = [float(lessons.segment_loss([lesson])) for lesson in chosen]
        assert float(lessons.segment_loss(chosen)) == pytest.approx(np.mean(alone), rel=1e-5)
