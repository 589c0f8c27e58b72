"""Laws of rows that are fitted to a velocity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from omni_rt._core import Sampler
from omni_rt.calibration.fine_path import FinePath, fine_path
from omni_rt.calibration.replay import Replay
from omni_rt.calibration.row_fit import FittedRows, fit_rows
from omni_rt.metrics import rel_l2
from omni_rt.plans import Plan, make_plan
from omni_rt.sampling import DivergedError
from tests.calibration.made_up_fields import (
    BETA,
    OMEGA,
    SHAPE,
    MadeUp,
    bending,
    cases,
    known_path,
    linear,
    linear_states,
    shared_grid,
    turning,
    turning_states,
)

# A state of about 1 in fp32, of which a few roundings (6e-8 each) are left after a few steps.
ROUNDING = 2e-6
NO_RIDGE = 1e-12


def residuals_of(
    plan: Plan, fields: Sequence[MadeUp], paths: Sequence[FinePath]
) -> tuple[float, ...]:
    """After each row, relative L2 from the paths, over all cases."""
    replay, found = Replay(fields), []
    for row, after in zip(plan.rows, plan.grid[1:], strict=True):
        replay.evaluate(row.t)
        replay.advance(row)
        found.append(rel_l2(replay.x, np.concatenate([path.at([after]) for path in paths])))
    return tuple(found)


def test_a_linear_velocity_is_integrated_exactly_from_the_second_row_on() -> None:
    """Two velocities tell α and β; the first row has seen one, and errs as Euler does at most."""
    fields = cases(linear)
    paths = [known_path(case, linear_states) for case in fields]
    found = fit_rows(fields, paths, shared_grid(4), ridge=NO_RIDGE)
    euler = residuals_of(make_plan("euler-4"), fields, paths)
    assert 0 < found.residuals[0] <= euler[0]
    assert max(found.residuals[1:]) < ROUNDING


def test_where_the_centre_is_exact_the_fit_is_the_centre() -> None:
    """v = β: all of AB2's rows are exact, and there is nothing to fit."""
    fields = cases(lambda x, t: BETA)
    paths = [known_path(case, lambda noise, t: noise + BETA * (t - 1)) for case in fields]
    found = fit_rows(fields, paths, shared_grid(5))
    ab2 = make_plan("ab2-5").rows
    for row, centre in zip(found.rows, ab2, strict=True):
        assert row.t == centre.t
        assert row.a == pytest.approx(1, abs=ROUNDING)
        # equal velocities cannot be told apart: only the sum of their weights is determined
        assert sum(row.b) == pytest.approx(sum(centre.b), abs=ROUNDING)
    assert max(found.residuals) < ROUNDING


def test_a_turning_velocity_needs_a_weight_of_x_that_is_not_one() -> None:
    """x' = cos(ωΔ)·x + sin(ωΔ)/ω·v exactly; no weights of velocities alone do that in one row."""
    fields = cases(turning)
    paths = [known_path(case, turning_states) for case in fields]
    found = fit_rows(fields, paths, shared_grid(4), ridge=NO_RIDGE)
    angle = OMEGA / 4
    first = found.rows[0]
    # targets between fine nodes there are none; x and v are orthogonal, so both are determined
    assert first.a == pytest.approx(np.cos(angle), abs=ROUNDING)
    assert first.b[0] == pytest.approx(-np.sin(angle) / OMEGA, abs=ROUNDING)
    assert max(found.residuals) < ROUNDING
    best_without = min(
        residuals_of(make_plan(f"{method}-4"), fields, paths)[-1]
        for method in ("euler", "ab2", "ab3", "abm2")
    )
    assert best_without > 0.05


@pytest.mark.parametrize("steps", [3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_fitted_rows_are_never_farther_than_their_centre(seed: int, steps: int) -> None:
    """On the cases they are fitted to, along the whole way."""
    fields = cases(bending(seed))
    paths = [fine_path(case, make_plan("ab3-64")) for case in fields]
    found = fit_rows(fields, paths, shared_grid(steps))
    ab2 = residuals_of(make_plan(f"ab2-{steps}"), fields, paths)
    assert all(ours <= theirs for ours, theirs in zip(found.residuals, ab2, strict=True))
    assert found.residuals[-1] < ab2[-1]


def test_a_heavy_ridge_leaves_the_centre() -> None:
    fields = cases(bending(0))
    paths = [fine_path(case, make_plan("ab3-64")) for case in fields]
    found = fit_rows(fields, paths, shared_grid(4), ridge=1e9)
    for row, centre in zip(found.rows, make_plan("ab2-4").rows, strict=True):
        assert row.a == pytest.approx(1, abs=1e-8)
        assert row.b[: len(centre.b)] == pytest.approx(centre.b, abs=1e-8)
        assert row.b[len(centre.b) :] == pytest.approx([0] * (len(row.b) - len(centre.b)), abs=1e-8)


def test_a_velocity_of_zero_leaves_the_centre() -> None:
    fields = cases(lambda x, t: np.zeros(SHAPE))
    paths = [known_path(case, lambda noise, t: noise) for case in fields]
    found = fit_rows(fields, paths, shared_grid(3))
    assert [row.b[0] for row in found.rows] == [row.b[0] for row in make_plan("ab2-3").rows]
    assert found.residuals == (0, 0, 0)


def executed(rows: FittedRows, fields: Sequence[MadeUp]) -> np.ndarray:
    """Where the C++ loop takes the cases."""
    sampler = Sampler(batch=len(fields), channels=SHAPE[0], frames=SHAPE[1], guided=False)
    sampler.x[:] = np.stack([field.noise for field in fields])

    def evaluate() -> None:
        t = float(sampler.t[0])
        sampler.velocity[:] = np.stack(
            [field.velocity(x, t) for field, x in zip(fields, sampler.x, strict=True)]
        )

    plan = Plan(name="ls3-4", rows=rows.rows, grid=rows.grid)
    none = np.zeros(0, np.float32)
    sampler.run(plan.table(), evaluate, renoise=none, cfg_scale=1.0, rescale=0.0)
    return sampler.x.copy()


def test_the_loop_executes_what_was_replayed_to_the_bit() -> None:
    """So what a row corrects is the error that requests will have. Times are halves: exact."""
    fields = cases(bending(1))
    paths = [fine_path(case, make_plan("ab3-64")) for case in fields]
    found = fit_rows(fields, paths, shared_grid(4))
    replay = Replay(fields)
    for row in found.rows:
        replay.evaluate(row.t)
        replay.advance(row)
    assert np.array_equal(executed(found, fields), replay.x)
    targets = np.stack([path.states[-1] for path in paths])
    assert rel_l2(replay.x, targets) == found.residuals[-1]


def test_a_fit_that_leads_to_infinity_has_diverged() -> None:
    def exploding(x: np.ndarray, t: float) -> np.ndarray:
        return np.full(SHAPE, 1e38 if t == 1 else np.inf)

    fields = cases(exploding)
    path = FinePath(
        times=np.linspace(1, 0, 3),
        states=np.zeros((3, *SHAPE), np.float32),
        velocities=np.zeros((2, *SHAPE), np.float32),
    )
    with pytest.raises(DivergedError):
        fit_rows(fields, [path] * len(fields), shared_grid(2))
