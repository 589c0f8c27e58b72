"""Rows and times moved together end nearer than rows that were fitted one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from omni_rt.calibration import refine
from omni_rt.calibration.fine_path import fine_path
from omni_rt.calibration.grid_fit import DENSITIES, fitted_grid
from omni_rt.calibration.refine import refined
from omni_rt.calibration.row_fit import FittedRows, fit_rows
from omni_rt.metrics import rel_l2
from omni_rt.plans import Plan, make_plan
from tests.calibration.made_up_fields import (
    MadeUp,
    Velocity,
    cases,
    guided_mixture,
    shared_grid,
    turning,
)


def fitted(fields: list[MadeUp], *, steps: int) -> tuple[list[object], FittedRows]:
    paths = [fine_path(field, make_plan("ab3-64")) for field in fields]
    return paths, fit_rows(fields, paths, fitted_grid(paths, steps, DENSITIES[0]))


def plan_of(rows: FittedRows) -> Plan:
    return Plan(name="rows", rows=rows.rows, grid=rows.grid)


def distance(fields: list[MadeUp], rows: FittedRows) -> float:
    exact = [field.latents(make_plan("abm2-400")) for field in fields]
    made = [field.latents(plan_of(rows)) for field in fields]
    return float(np.mean([rel_l2(a, b) for a, b in zip(made, exact, strict=True)]))


@pytest.mark.parametrize(("guidance", "steps"), [(1.0, 8), (7.0, 16)])
def test_held_out_cases_end_nearer(guidance: float, steps: int) -> None:
    """On a flow that is known, with noise and conditions that nothing was fitted to.

    By .50 and .57 of the distance of rows that were fitted one by one.
    """
    fields = guided_mixture(0, guidance=guidance, count=12, first=0)
    held_out = guided_mixture(0, guidance=guidance, count=8, first=100)
    paths, rows = fitted(fields, steps=steps)
    moved = refined(fields, paths, rows, rounds=1)
    assert distance(held_out, moved) < 0.75 * distance(held_out, rows)
    assert len(moved.residuals) == steps


def test_times_stay_in_order_and_are_those_of_the_rows() -> None:
    fields = guided_mixture(0, guidance=2.0, count=8, first=0)
    moved = refined(fields, *fitted(fields, steps=8), rounds=2)
    assert (moved.grid[0], moved.grid[-1]) == (1, 0)
    assert all(a > b for a, b in zip(moved.grid, moved.grid[1:], strict=False))
    assert [row.t for row in moved.rows] == list(moved.grid[:-1])


@pytest.mark.parametrize("guidance", [2.0, 4.0])
def test_every_fourth_case_decides(guidance: float) -> None:
    """Rows that fit the others alone too closely are not taken."""
    fields = guided_mixture(0, guidance=guidance, count=8, first=0)
    paths, rows = fitted(fields, steps=4)
    moved = refined(fields, paths, rows, rounds=1)
    deciding = [fields[3], fields[7]]
    assert moved is rows or distance(deciding, moved) < distance(deciding, rows)
    assert refined(fields[:3], paths[:3], rows, rounds=1) is rows  # nobody to decide


def test_the_loop_ends_where_the_last_residual_says() -> None:
    fields = guided_mixture(0, guidance=2.0, count=4, first=0)
    paths, rows = fitted(fields, steps=4)
    moved = refined(fields, paths, rows, rounds=1)
    ends = np.stack([field.latents(plan_of(moved)) for field in fields])
    fine = np.concatenate([path.at([0.0]) for path in paths])
    assert rel_l2(ends, fine) == pytest.approx(moved.residuals[-1], rel=1e-4)


def test_without_rounds_rows_stay_as_they_are() -> None:
    fields = cases(turning)
    paths, rows = fitted(fields, steps=3)
    assert refined(fields, paths, rows, rounds=0) is rows


def only_on_a_grid(steps: int) -> Velocity:
    def function(x: np.ndarray, t: float) -> np.ndarray:
        on_grid = abs(t * steps - round(t * steps)) < 1e-5
        return turning(x, t) if on_grid else np.full_like(x, np.nan)

    return function


def test_a_model_that_breaks_down_beside_the_grid_keeps_its_rows() -> None:
    fields = cases(only_on_a_grid(64))
    paths = [fine_path(field, make_plan("ab3-64")) for field in fields]
    rows = fit_rows(fields, paths, shared_grid(4))
    assert refined(fields, paths, rows, rounds=1) is rows


def test_rows_that_break_down_on_a_case_that_did_not_decide_are_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields = guided_mixture(0, guidance=1.0, count=4, first=0)
    paths, rows = fitted(fields, steps=3)
    wild = (replace(rows.rows[0], a=1e39), *rows.rows[1:])
    monkeypatch.setattr(refine, "_nearer", lambda *_: wild)
    with np.errstate(over="ignore", invalid="ignore"):
        assert refined(fields, paths, rows, rounds=1) is rows


def test_every_row_of_every_round_is_told() -> None:
    fields, told = guided_mixture(0, guidance=1.0, count=4, first=0), list[str]()
    paths, rows = fitted(fields, steps=3)
    refined(fields, paths, rows, rounds=1, tell=told.append)
    assert told == [f"round 1, row {n} of 3" for n in (1, 2, 3)]
