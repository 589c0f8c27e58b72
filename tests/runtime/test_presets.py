"""Presets: names for plans, in the one place where plans are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from omni_rt.bundle import Bundle
from omni_rt.errors import RequestError
from omni_rt.plan_choice import PlanChoice
from omni_rt.plans import make_plan
from omni_rt.presets import PRESETS, offered, passes
from tests.runtime.test_plan_choice import bundle_with, fitted, model_of
from tests.runtime.tiny_bundle import write_tiny_bundle


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    write_tiny_bundle(tmp_path / "tiny")
    return Bundle.open(tmp_path / "tiny")


def names(bundle: Bundle) -> list[str]:
    return [preset.name for preset in offered(bundle)]


def test_every_bundle_but_a_students_is_faithful_and_fitted_plans_add_to_it(
    tiny: Bundle, tmp_path: Path
) -> None:
    assert names(tiny) == ["faithful"]
    own = bundle_with(tmp_path / "own", fitted(model_of(tiny), name="ls3-8"))
    assert names(own) == ["faithful", "fast"]
    choice = PlanChoice(own)
    assert choice.plan("fast", cfg_scale=7) == choice.plan("ls3-8", cfg_scale=7)
    assert choice.plan("faithful", cfg_scale=7) == make_plan("euler-100")


def test_a_student_offers_its_own_alone(tiny: Bundle, tmp_path: Path) -> None:
    student = fitted(model_of(tiny, kind="student"), 1.0, name="student-4")
    own = bundle_with(tmp_path / "own", student, default_plan="student-4")
    assert names(own) == ["student-4"]
    assert PlanChoice(own).plan("student-4", cfg_scale=1).name == "student-4"
    for lacking in PRESETS.keys() - {"student-4"}:
        with pytest.raises(RequestError, match=r"distilled to student-4.*it offers student-4$"):
            PlanChoice(own).plan(lacking, cfg_scale=1)
    for name in ("euler-4", "ls3-8", "nonsense"):
        with pytest.raises(RequestError, match=rf"does not follow plan '{name}': use student-4$"):
            PlanChoice(own).plan(name, cfg_scale=1)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("balanced", r"plan ls3-16 is not fitted .*omni-rt fit-solver .*tiny --steps 16\)"),
        ("student-8", "its model is not distilled"),
    ],
)
def test_a_preset_that_the_bundle_lacks_is_refused_with_what_it_offers(
    tiny: Bundle, name: str, why: str
) -> None:
    with pytest.raises(RequestError, match=rf"no preset '{name}': {why}; it offers faithful$"):
        PlanChoice(tiny).plan(name, cfg_scale=7)


def test_passes_are_rows_times_evaluations() -> None:
    assert passes(make_plan("euler-100"), cfg_scale=7) == 200
    assert passes(make_plan("euler-8"), cfg_scale=1) == 8
    assert passes(replace(make_plan("heun-3"), name="ls3-3"), cfg_scale=4) == 10
