"""Laws of the solver rows (spec SOLVERS §1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_rt.errors import RequestError
from omni_rt.plans import (
    MAX_STEPS,
    METHODS,
    Plan,
    Row,
    integrate_lagrange,
    make_plan,
    uniform_grid,
)

TIME_METHODS = ("euler", "ab2", "ab3", "abm2", "heun")  # a = 1, p = 0

fast = settings(max_examples=40, deadline=None)


@st.composite
def grids(draw: st.DrawFn, least: int = 1) -> list[float]:
    """Falling times from at most 1 to 0 whose steps differ by at most a factor of about 100."""
    gaps = draw(st.lists(st.floats(0.01, 1.0), min_size=least, max_size=12))
    first = draw(st.floats(0.1, 1.0))
    times = first * np.cumsum(gaps[::-1])[::-1] / np.sum(gaps)
    return [first, *times[1:].tolist(), 0.0]


def on_grid(method: str, grid: list[float]) -> Plan:
    return make_plan(f"{method}-{len(grid) - 1}", grid=grid)


def integrate(plan: Plan, velocity: Callable[[float, float], float], start: float) -> float:
    """A scalar executor in fp64."""
    x, ring = start, [0.0, 0.0, 0.0]
    for row in plan.rows:
        ring = [row.p * x + row.q * velocity(x, row.t), *ring[:2]]
        x = row.a * x + sum(b * h for b, h in zip(row.b, ring, strict=False))
    return x


@given(st.sampled_from(["euler", "ab2", "ab3", "abm2"]), grids())
@fast
def test_weights_sum_to_the_time_their_row_advances(method: str, grid: list[float]) -> None:
    plan = on_grid(method, grid)
    assert [row.t for row in plan.rows] == grid[:-1]
    # abm2's rows also correct the step before: its sums still advance by their own step
    for row, (t, after) in zip(plan.rows, pairwise(grid), strict=True):
        assert math.isclose(sum(row.b), after - t, rel_tol=1e-9, abs_tol=1e-9)


@given(grids())
@fast
def test_heuns_correctors_advance_no_time(grid: list[float]) -> None:
    rows = on_grid("heun", grid).rows
    assert len(rows) == 2 * (len(grid) - 1) - 1
    for row, (t, after) in zip(rows[::2], pairwise(grid), strict=True):
        assert row.t == t
        assert sum(row.b) == after - t
    for row, t in zip(rows[1::2], grid[1:], strict=False):
        assert row.t == t
        assert sum(row.b) == 0


@given(st.sampled_from(list(METHODS)), grids())
@fast
def test_no_row_is_evaluated_at_time_zero(method: str, grid: list[float]) -> None:
    assert all(0 < row.t <= 1 for row in on_grid(method, grid).rows)


@given(st.sampled_from(list(METHODS)), grids())
@fast
def test_a_straight_path_is_followed_exactly(method: str, grid: list[float]) -> None:
    """x = x0 + t·v: every method lands on x0 when all noise is the path's own."""
    if method == "consistency":
        return  # its noise is drawn anew
    landed = integrate(on_grid(method, grid), lambda x, t: 3.0, 2.0 + grid[0] * 3.0)
    assert math.isclose(landed, 2.0, abs_tol=1e-9)


@given(st.sampled_from(["abm2", "heun"]), grids(least=2), st.floats(-5, 5), st.floats(-5, 5))
@fast
def test_abm2_integrates_a_linear_velocity_exactly_but_for_its_last_step(
    method: str, grid: list[float], slope: float, offset: float
) -> None:
    """Heun ends with an Euler row (nothing is evaluated at 0), whose error is −αΔ²/2."""
    landed = integrate(on_grid(method, grid), lambda x, t: slope * t + offset, 0.0)
    exact = -(slope * grid[0] ** 2 / 2 + offset * grid[0])
    error = slope * grid[-2] ** 2 / 2 if method == "heun" else 0.0
    assert math.isclose(landed, exact - error, rel_tol=1e-8, abs_tol=1e-8)


@given(grids(least=2), st.floats(-5, 5), st.floats(-5, 5))
@fast
def test_ab2_integrates_a_linear_velocity_but_for_its_euler_start(
    grid: list[float], slope: float, offset: float
) -> None:
    landed = integrate(on_grid("ab2", grid), lambda x, t: slope * t + offset, 0.0)
    exact = -(slope * grid[0] ** 2 / 2 + offset * grid[0])
    start_error = slope * (grid[1] - grid[0]) ** 2 / 2
    assert math.isclose(landed, exact - start_error, rel_tol=1e-8, abs_tol=1e-8)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("ab2", 2), ("ab3", 2), ("abm2", 2)])
def test_errors_fall_with_the_order_of_the_method(method: str, order: int) -> None:
    """x' = x from t = 1 to 0; ab3's own order shows only beside its lower-order start."""
    errors = [
        abs(integrate(make_plan(f"{method}-{n}"), lambda x, t: x, 1.0) - math.exp(-1))
        for n in (64, 128)
    ]
    assert errors[0] / errors[1] > 0.9 * 2**order


def test_euler_is_the_originals_loop() -> None:
    """Spec UPSTREAM §4: linspace(1, 0, N + 1), x += (t_{i+1} − t_i)·v(x, t_i)."""
    plan = make_plan("euler-100")
    assert plan.evaluations == 100
    assert np.allclose(plan.grid, np.linspace(1, 0, 101), rtol=0, atol=1e-15)
    assert plan.rows[-1].t == pytest.approx(0.01)
    assert all((r.p, r.q, r.a, r.c) == (0, 1, 1, 0) and len(r.b) == 1 for r in plan.rows)


def test_ab3_has_the_classical_weights_on_a_uniform_grid() -> None:
    rows = make_plan("ab3-8").rows
    for row in rows[2:]:
        assert np.allclose(np.array(row.b) * -8 * 12, [23, -16, 5], rtol=1e-9)
    assert np.allclose(np.array(rows[1].b) * -8 * 2, [3, -1], rtol=1e-9)


def test_abm2_has_the_specified_weights_on_a_uniform_grid() -> None:
    rows = [np.array(row.b) * -8 for row in make_plan("abm2-8").rows]
    assert np.allclose(rows[0], [1])
    assert np.allclose(rows[1], [2, -1, 0])
    for row in rows[2:]:
        assert np.allclose(row, [2, -1.5, 0.5])


@given(grids(least=2))
@fast
def test_ab2_has_the_specified_weights_on_any_grid(grid: list[float]) -> None:
    deltas = np.diff(grid)
    for n, row in list(enumerate(on_grid("ab2", grid).rows))[1:]:
        ratio = deltas[n] / deltas[n - 1]
        assert np.allclose(row.b, [deltas[n] * (1 + ratio / 2), -deltas[n] * ratio / 2])


@given(grids(least=1))
@fast
def test_dpmpp_equals_its_data_prediction_formula(grid: list[float]) -> None:
    """Lu et al. 2022 (arXiv:2211.01095), Algorithm 2, with α = 1 − t and σ = t."""
    lam = [math.inf if t == 0 else -math.inf if t == 1 else math.log((1 - t) / t) for t in grid]
    plan = on_grid("dpmpp2m", grid)
    for n, row in enumerate(plan.rows):
        t, after = grid[n], grid[n + 1]
        assert (row.p, row.q, row.a) == (1, -t, after / t)
        weight = 1 - after / t  # −α'·(e^{−h} − 1) = 1 − t'/t for a flow
        b = [weight, 0.0]
        if n > 0 and math.isfinite(lam[n - 1]) and math.isfinite(lam[n + 1]):
            r = (lam[n] - lam[n - 1]) / (lam[n + 1] - lam[n])
            b = [weight * (1 + 1 / (2 * r)), -weight / (2 * r)]
        assert np.allclose([*row.b, 0.0][:2], b, rtol=1e-9)


def test_dpmpp_is_first_order_where_the_log_snr_is_infinite() -> None:
    rows = make_plan("dpmpp2m-6").rows
    assert [len(row.b) for row in rows] == [1, 1, 2, 2, 2, 1]


def test_consistency_rows_jump_to_the_data_and_noise_it_again() -> None:
    plan = make_plan("consistency-4")
    for row, (t, after) in zip(plan.rows, pairwise(plan.grid), strict=True):
        assert (row.a, row.b, row.c) == (1 - after, (-(1 - after) * t,), after)
    assert plan.renoise_rows == 3


@pytest.mark.parametrize("method", [m for m in METHODS if m != "consistency"])
def test_only_consistency_draws_noise(method: str) -> None:
    assert make_plan(f"{method}-5").renoise_rows == 0


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3))
@fast
def test_lagrange_weights_are_exact_for_polynomials_through_their_nodes(
    coefficients: list[float],
) -> None:
    nodes, start, end = [0.5, 0.7, 1.0], 0.5, 0.2
    polynomial = np.polynomial.Polynomial(coefficients)
    primitive = polynomial.integ()
    weights = integrate_lagrange(nodes, start, end)
    found = sum(w * polynomial(t) for w, t in zip(weights, nodes, strict=True))
    assert math.isclose(found, primitive(end) - primitive(start), abs_tol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_one_step_is_euler_by_any_name(method: str) -> None:
    plan = make_plan(f"{method}-1")
    assert math.isclose(integrate(plan, lambda x, t: 2 * t + 1, 5.0), 2.0)


@given(st.integers(1, 50), st.floats(0.05, 20))
@fast
def test_a_shifted_grid_follows_its_formula(steps: int, shift: float) -> None:
    grid = uniform_grid(steps, shift=shift)
    u = np.array([1 - i / steps for i in range(steps + 1)])
    assert np.allclose(grid, shift * u / (1 + (shift - 1) * u), rtol=1e-12, atol=1e-15)
    assert grid[-1] == 0
    assert np.all(np.diff(grid) < 0)


@pytest.mark.parametrize("shift", [0.05, 0.1, 0.3])
def test_a_shifted_grid_starts_at_exactly_one(shift: float) -> None:
    assert uniform_grid(8, shift=shift)[0] == 1


def test_dpmpp_is_first_order_after_one_on_a_shifted_grid_too() -> None:
    assert len(make_plan("dpmpp2m-6", shift=0.05).rows[1].b) == 1


def test_shift_above_one_lingers_at_noise() -> None:
    assert np.all(uniform_grid(8, shift=3)[1:-1] > uniform_grid(8)[1:-1])
    assert make_plan("euler-8", shift=3).grid == tuple(uniform_grid(8, shift=3))


@given(st.sampled_from(list(METHODS)), grids())
@fast
def test_an_explicit_grid_is_kept(method: str, grid: list[float]) -> None:
    assert on_grid(method, grid).grid == tuple(grid)


def test_names_are_method_and_steps() -> None:
    assert make_plan("euler-007").name == "euler-7"
    assert make_plan("ab3-25").evaluations == 25


@given(st.sampled_from(list(METHODS)), st.integers(1, 20), st.floats(0.01, 0.99))
@fast
def test_starting_at_sigma_scales_the_grid_and_rebuilds_the_rows(
    method: str, steps: int, sigma: float
) -> None:
    plan = make_plan(f"{method}-{steps}", shift=2.0)
    started = plan.starting_at(sigma)
    assert started.name == plan.name
    assert started.rows[0].t == started.grid[0]
    assert np.allclose(started.grid, np.array(plan.grid) * sigma, rtol=1e-12)
    rebuilt = on_grid(method, list(started.grid))
    assert np.array_equal(started.table(), rebuilt.table())


def test_starting_where_a_plan_starts_is_the_plan() -> None:
    plan = make_plan("ab2-4")
    assert plan.starting_at(1.0) is plan


def test_a_fitted_plan_starts_only_where_it_was_fitted() -> None:
    fitted = replace(make_plan("euler-4"), method=None, name="ls3-4")
    assert fitted.starting_at(1.0) is fitted
    with pytest.raises(RequestError, match="ls3-4"):
        fitted.starting_at(0.5)


@pytest.mark.parametrize("sigma", [0.0, -0.5, 1.5, math.nan, math.inf])
@pytest.mark.parametrize("method", ["euler", "dpmpp2m"])
def test_a_plan_starts_above_zero_and_not_above_one(method: str, sigma: float) -> None:
    with pytest.raises(RequestError):
        make_plan(f"{method}-4").starting_at(sigma)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "euler",
        "euler-",
        "-8",
        "euler-0",
        "euler--1",
        "euler-1000000",
        f"euler-{MAX_STEPS + 1}",
        "euler-99999999999999999999999",
        "euler-8.5",
        "euler-1e3",
        "euler-٨",
        "euler-²",
        "Euler-8",
        "rk4-8",
        "ls3-8",
        "euler 8",
        "euler-8\n",
    ],
)
def test_unknown_names_and_step_counts_are_refused(name: str) -> None:
    with pytest.raises(RequestError):
        make_plan(name)


def test_the_refusal_of_a_name_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"'rk4-8'.*euler-N.*abm2-N"):
        make_plan("rk4-8")


@pytest.mark.parametrize("shift", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_shift_is_positive_and_finite(shift: float) -> None:
    with pytest.raises(RequestError, match="shift"):
        make_plan("euler-8", shift=shift)


@pytest.mark.parametrize("shift", [1e17, 1e-320])
@pytest.mark.parametrize("method", ["ab3", "abm2", "dpmpp2m"])
def test_a_shift_that_lets_times_coincide_is_refused(method: str, shift: float) -> None:
    with pytest.raises(RequestError):
        make_plan(f"{method}-8", shift=shift)


@pytest.mark.parametrize(
    "grid",
    [
        [1.0, 0.5],
        [1.0, 0.5, 0.1],
        [0.5, 1.0, 0.0],
        [1.0, 0.5, 0.5],
        [1.5, 0.5, 0.0],
        [1.0, 0.0, -1.0],
        [1.0, math.nan, 0.0],
        [math.nan, 0.5, 0.0],
        [math.inf, 0.5, 0.0],
        [1.0, 0.5, 0.2, 0.0],
        [],
        [[1.0], [0.5], [0.0]],
    ],
)
def test_a_grid_falls_from_at_most_one_to_zero_in_the_steps_of_its_name(grid: list[Any]) -> None:
    with pytest.raises(RequestError):
        make_plan("euler-2", grid=grid)


@pytest.mark.parametrize("grid", [["1", "x", "0"], 0.5, [1.0, [0.5, 0.2], 0.0]])
def test_a_grid_of_anything_but_numbers_is_refused(grid: Any) -> None:
    with pytest.raises(RequestError):
        make_plan("euler-2", grid=grid)


def test_an_explicit_grid_has_at_most_the_allowed_steps() -> None:
    with pytest.raises(RequestError):
        make_plan(f"euler-{MAX_STEPS + 1}", grid=np.linspace(1, 0, MAX_STEPS + 2).tolist())


def test_shift_and_grid_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="not both"):
        make_plan("euler-2", shift=2.0, grid=[1.0, 0.5, 0.0])


def test_a_table_has_one_line_of_eight_columns_per_row() -> None:
    plan = Plan(name="x", grid=(1.0, 0.0), rows=(Row(t=1.0, p=2.0, q=3.0, a=4.0, b=(5.0,), c=6.0),))
    assert plan.table().tolist() == [[1, 2, 3, 4, 5, 0, 0, 6]]
    assert plan.table().dtype == np.float64
