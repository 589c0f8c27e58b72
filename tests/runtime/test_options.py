"""What a request may ask of the sampler."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from omni_rt.errors import RequestError
from omni_rt.options import (
    MAX_DURATION_S,
    Sampling,
    checked_duration,
    checked_seed,
    checked_strength,
)
from omni_rt.plans import make_plan

PLAN = make_plan("heun-3")


@pytest.mark.parametrize("scale", [-3, 0, 1, 7.5, np.float32(2), np.int64(3)])
def test_any_finite_number_is_a_guidance_scale(scale: Any) -> None:
    assert Sampling(plan=PLAN, cfg_scale=scale).guided == (scale != 1)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, "7", None, True, 7j])
def test_anything_else_is_no_guidance_scale(scale: Any) -> None:
    with pytest.raises(RequestError, match="cfg_scale"):
        Sampling(plan=PLAN, cfg_scale=scale)


def test_an_integer_beyond_every_float_is_no_guidance_scale() -> None:
    with pytest.raises(RequestError, match="cfg_scale"):
        Sampling(plan=PLAN, cfg_scale=10**400)


@pytest.mark.parametrize("phi", [0, 0.5, 1, np.float32(0.25)])
def test_rescale_lies_between_zero_and_one(phi: Any) -> None:
    assert Sampling(plan=PLAN, rescale=phi).rescale == phi


@pytest.mark.parametrize("phi", [-0.01, 1.01, math.nan, math.inf, "0.5", None, True])
def test_rescale_outside_zero_to_one_is_refused(phi: Any) -> None:
    with pytest.raises(RequestError, match="rescale"):
        Sampling(plan=PLAN, rescale=phi)


def test_progress_counts_the_steps_of_all_segments() -> None:
    seen: list[tuple[int, int]] = []
    how = Sampling(plan=PLAN, on_step=lambda done, total: seen.append((done, total)))
    for segment in range(2):
        tell = how.progress_of(segment, 2)
        assert tell is not None
        for done in range(PLAN.evaluations):
            tell(done + 1, PLAN.evaluations)
    assert seen == [(i + 1, 10) for i in range(10)]


def test_without_a_listener_there_is_no_progress() -> None:
    assert Sampling(plan=PLAN).progress_of(0, 2) is None


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, np.int64(5), np.uint32(5)])
def test_a_seed_of_32_bits_is_kept(seed: Any) -> None:
    assert checked_seed(seed) == int(seed)
    assert type(checked_seed(seed)) is int


def test_without_a_seed_each_draw_is_another() -> None:
    drawn = [checked_seed(None) for _ in range(4)]
    assert len(set(drawn)) > 1
    assert all(0 <= seed < 2**32 for seed in drawn)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "1", True, math.nan, 10**400])
def test_anything_else_is_no_seed(seed: Any) -> None:
    with pytest.raises(RequestError, match="seed"):
        checked_seed(seed)


@pytest.mark.parametrize("duration", [1e-6, 1, 10.5, MAX_DURATION_S, np.float32(3)])
def test_durations_go_up_to_ten_minutes(duration: Any) -> None:
    assert checked_duration(duration) == duration
    assert type(checked_duration(duration)) is float


@pytest.mark.parametrize(
    "duration", [0, -1, MAX_DURATION_S + 0.1, math.nan, math.inf, 10**400, "10", None, True]
)
def test_other_durations_are_refused(duration: Any) -> None:
    with pytest.raises(RequestError, match="duration_s"):
        checked_duration(duration)


@pytest.mark.parametrize("strength", [0.01, 0.5, 0.99, np.float32(0.5)])
def test_strength_lies_strictly_between_zero_and_one(strength: Any) -> None:
    assert checked_strength(strength) == strength


def test_half_of_a_clip_remains_unless_said_otherwise() -> None:
    assert checked_strength(None) == 0.5


@pytest.mark.parametrize("strength", [0, 1, -0.5, 1.5, math.nan, "0.5", True])
def test_other_strengths_are_refused(strength: Any) -> None:
    with pytest.raises(RequestError, match="init_strength"):
        checked_strength(strength)
