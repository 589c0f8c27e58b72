"""Which of the fitted plans is taken, and what is said where none is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from omni_rt.calibration.solver_fit import FitSettings, Outcome, fit_at
from omni_rt.errors import ExportError, RequestError
from omni_rt.plans import Model
from tests.calibration.made_up_fields import (
    BETA,
    SHAPE,
    Velocity,
    cases,
    guided_mixture,
    turning,
)

MODEL = Model(kind="fitted", digest="abc", precision="fp32")
QUICK = FitSettings(steps=(4,), fine_steps=32, reference="abm2-200", faithful="euler-50")


def outcome_of(function: Velocity, settings: FitSettings = QUICK) -> Outcome:
    fitted, held_out = cases(function, count=3), cases(function, count=2, first=50)
    (outcome,) = fit_at(fitted, held_out, settings, model=MODEL, cfg_scale=3.0)
    return outcome


def test_a_fit_that_beats_analytic_plans_is_taken_with_what_it_holds_for() -> None:
    found = outcome_of(turning)
    assert found.plan is not None
    assert (found.plan.name, found.plan.steps) == ("ls3-4", 4)
    assert (found.plan.model, found.plan.cfg_scale, found.plan.method) == (MODEL, 3.0, None)
    assert found.spacing is not None
    assert found.error == found.spacings[found.spacing]
    assert found.error == min(e for e in found.spacings.values() if e is not None)
    assert list(found.others) == ["euler-4", "ab3-4", "abm2-4", "euler-50"]
    assert found.error < min(e for n, e in found.others.items() if e and n != "euler-50")
    assert len(found.residuals) == 4


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_sixteen_fitted_steps_are_as_good_as_a_hundred_of_eulers(guidance: float) -> None:
    """And eight are better than any analytic eight, on a flow that is known.

    Held-out cases have other noise and other conditions. Euler-400 is off by a quarter of what
    Euler-100 is, which is less than what lies between the two sides here.
    """
    settings = FitSettings(steps=(16, 8))
    fitted = guided_mixture(0, guidance=guidance, count=8, first=0)
    held_out = guided_mixture(0, guidance=guidance, count=4, first=100)
    sixteen, eight = fit_at(fitted, held_out, settings, model=MODEL, cfg_scale=guidance)
    assert sixteen.plan is not None
    assert eight.plan is not None
    faithful = sixteen.others["euler-100"]
    assert faithful is not None
    assert sixteen.error is not None
    assert sixteen.error < 0.75 * faithful


def test_one_kind_of_grid_can_be_asked_for() -> None:
    found = outcome_of(turning, replace(QUICK, spacings=("uniform",)))
    assert found.plan is not None
    assert found.plan.grid == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert list(found.spacings) == ["uniform"]


def test_fitted_times_are_refined_unless_that_is_left_out() -> None:
    fitted = guided_mixture(0, guidance=1.0, count=8, first=0)
    held_out = guided_mixture(0, guidance=1.0, count=4, first=100)
    for rounds, spacings in ((1, ["uniform", "fitted", "refined"]), (0, ["uniform", "fitted"])):
        settings = replace(QUICK, steps=(8,), refinements=rounds)
        told: list[str] = []
        (found,) = fit_at(
            fitted, held_out, settings, model=MODEL, cfg_scale=1.0, progress=told.append
        )
        assert list(found.spacings) == spacings
        assert found.spacing == spacings[-1]
        told_rows = [t for t in told if "fitting ls3-8: refining, round 1, row 8 of 8" in t]
        assert len(told_rows) == rounds


def test_a_fit_that_is_no_better_is_rejected_for_the_best_analytic_plan() -> None:
    """v = β: Euler is exact already."""
    found = outcome_of(lambda x, t: BETA)
    assert found.plan is None
    assert (found.spacing, found.residuals) == (None, ())
    assert found.fallback in ("euler-4", "ab3-4", "abm2-4")
    assert found.error is not None


def only_at(steps: int) -> Velocity:
    """Finite at multiples of 1/steps alone."""

    def function(x: np.ndarray, t: float) -> np.ndarray:
        on_grid = abs(t * steps - round(t * steps)) < 1e-4
        return (0.2 + t**4) * turning(x, t) if on_grid else np.full(SHAPE, np.nan)

    return function


def test_a_fit_that_diverges_is_rejected_and_the_other_grid_is_taken() -> None:
    settings = replace(QUICK, reference="abm2-32", faithful="euler-32")
    found = outcome_of(only_at(32), settings)
    assert (found.spacing, found.spacings["fitted"]) == ("uniform", None)
    assert found.plan is not None


def test_where_nothing_of_as_many_steps_is_finite_there_is_no_fallback() -> None:
    settings = replace(QUICK, steps=(5,), reference="abm2-32", faithful="euler-32")
    found = outcome_of(only_at(32), settings)
    assert (found.plan, found.error, found.fallback) == (None, None, None)
    assert found.others["euler-32"] is not None


def test_a_model_that_diverges_in_fine_steps_is_one_error() -> None:
    with pytest.raises(ExportError, match="nothing to fit a solver to"):
        outcome_of(lambda x, t: np.full(SHAPE, np.inf))


def test_without_cases_there_is_nothing_to_fit() -> None:
    with pytest.raises(ExportError, match="needs cases"):
        fit_at([], cases(turning), QUICK, model=MODEL, cfg_scale=1.0)
    with pytest.raises(ExportError, match="others to be judged by"):
        fit_at(cases(turning), [], QUICK, model=MODEL, cfg_scale=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": (0,)}, "steps must be 1 to 16"),
        ({"steps": (16, 17)}, "half of the 32 of the fine trajectories, got 17"),
        ({"steps": ()}, "nothing to fit"),
        ({"spacings": ()}, "nothing to fit"),
        ({"refinements": -1}, "refinements must be 0 to 20, got -1"),
        ({"reference": "rk4-8"}, "unknown plan 'rk4-8'"),
        ({"reference": "consistency-8"}, "draws fresh noise"),
        ({"faithful": "euler"}, "unknown plan 'euler'"),
        ({"fine_steps": 100_000}, "steps must be 1 to"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        replace(QUICK, **changes).check()
