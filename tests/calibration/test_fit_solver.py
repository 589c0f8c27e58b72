"""Solvers fitted to the packaged miniature, from requests to a bundle that runs them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omni_rt import Session, miniature
from omni_rt.bundle import Bundle
from omni_rt.calibration.fields import CaseFields
from omni_rt.calibration.fit_solver import FitOptions, fit_solver
from omni_rt.calibration.replay import Replay
from omni_rt.calibration.solver_fit import FitSettings
from omni_rt.engine_pool import EnginePool
from omni_rt.errors import BundleError, ExportError, OmniError, RequestError
from omni_rt.export.bundle_plans import model_of, put_plans
from omni_rt.plan_file import plan_file
from omni_rt.plans import make_plan
from tests.calibration.sets import case_named
from tests.runtime.tiny_bundle import write_tiny_bundle

# Few steps of few cases: what is asked here is that files and loops fit together.
QUICK = FitSettings(
    steps=(2,), spacings=("uniform",), fine_steps=8, reference="ab3-8", faithful="euler-4"
)


def options(source: Path, **changes: object) -> FitOptions:
    made = FitOptions(bundle=source, settings=QUICK, trajectories=2, held_out=1, threads=1)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_what_is_fitted_runs_in_the_bundle_and_is_refused_elsewhere(tmp_path: Path) -> None:
    out = tmp_path / "fitted"
    told: list[str] = []
    (found,) = fit_solver(options(miniature(), out=out), progress=told.append)
    assert found.plan is not None, "two of two AB3 steps are far from eight"
    assert any("ab3-8, case 2 of 2" in line for line in told)
    bundle = Bundle.open(out)
    plan = bundle.plan_files["ls3-2"].nearest(7)
    assert np.array_equal(plan.table(), found.plan.table())
    assert (plan.grid, plan.model) == (found.plan.grid, model_of(bundle, "fitted"))
    (table,) = bundle.plan_files["ls3-2"].tables
    assert table.fit is not None
    assert len(table.fit.cases) == 2
    assert len(table.fit.held_out) == 1
    assert table.fit.error == found.error
    assert table.fit.others.keys() == {"euler-2", "ab3-2", "abm2-2", "euler-4"}
    with Session(out, threads=1) as session:
        audio = session.generate("T2A", prompt="a sine tone at a 4", plan="ls3-2", seed=1)
        assert np.isfinite(audio.samples).all()
        assert audio.made["plan"] == "ls3-2"
    with (
        Session(miniature(), threads=1) as session,
        pytest.raises(RequestError, match="unknown plan 'ls3-2'"),
    ):
        session.generate("T2A", prompt="a", plan="ls3-2")


@pytest.mark.slow
def test_a_field_is_the_sessions_sampling_to_the_bit() -> None:
    """Whole plans, and rows that are replayed one by one; times are halves, exact in binary."""
    asked = case_named("T2A/0")
    with Session(miniature(), threads=1) as session:
        pool = EnginePool(session.bundle, threads=1, memory="staged")
        (field,) = CaseFields(session, pool, [asked]).at(3.0)
        assert asked.request is not None
        conditioning = session.encode(asked.request)
        expected = session.sample(
            conditioning, noise=field.noise[None], plan="ab3-4", cfg_scale=3.0
        )[0]
    plan = make_plan("ab3-4")
    assert np.array_equal(field.latents(plan), expected)
    replay = Replay([field])
    for row in plan.rows:
        replay.evaluate(row.t)
        replay.advance(row)
    assert np.array_equal(replay.x[0], expected)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"trajectories": 0}, ExportError, "takes 1 to 256 trajectories, got 0"),
        ({"held_out": 0}, ExportError, "takes 1 to 256 held-out cases, got 0"),
        ({"settings": replace(QUICK, steps=(5,))}, RequestError, "steps must be 1 to 4"),
        ({"cfg_scales": (7.0, float("nan"))}, RequestError, "guidance must be finite"),
        ({"engine": "toaster"}, RequestError, "engine must be one of"),
        ({"bundle": Path("nowhere")}, BundleError, "no bundle at nowhere"),
        ({"out": Path("nowhere/out")}, ExportError, "no folder nowhere"),
        ({"audio": Path("nowhere")}, ExportError, "nowhere"),
        ({"seed": -1}, ExportError, "seed must be at least 0"),
    ],
)
def test_what_cannot_be_fitted_is_one_error_before_any_work(
    changes: dict[str, object], error: type[OmniError], message: str
) -> None:
    told: list[str] = []
    with pytest.raises(error, match=message):
        fit_solver(options(miniature(), **changes), progress=told.append)
    assert told == []


def test_a_bundle_without_the_stages_of_sampling_is_refused_by_name(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    with pytest.raises(BundleError, match="no 'signal' stage"):
        fit_solver(options(tmp_path / "tiny"))


def test_a_student_is_not_fitted_to_itself(tmp_path: Path) -> None:
    shutil.copytree(miniature(), tmp_path / "student")
    bundle = Bundle.open(tmp_path / "student")
    model = model_of(bundle, "student")
    plan = replace(make_plan("euler-8"), name="student-8", method=None, model=model, cfg_scale=1.0)
    put_plans(bundle, [plan_file(plan)])
    with pytest.raises(BundleError, match="distilled to student-8"):
        fit_solver(options(bundle.directory))
