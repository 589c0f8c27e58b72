"""Which plan a request gets: the nearest guidance, said in the log; and which are refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from omni_rt.bundle import Bundle
from omni_rt.errors import BundleError, RequestError
from omni_rt.plan_choice import PlanChoice
from omni_rt.plan_file import merged, plan_file, plan_text
from omni_rt.plans import Model, Plan, make_plan
from tests.runtime.tiny_bundle import rewrite, write_tiny_bundle


def model_of(bundle: Bundle, **changes: object) -> Model:
    model = Model(
        kind="fitted",
        digest=bundle.graph_digest("dit_step"),
        precision=bundle.graph("dit_step").precision,
    )
    return replace(model, **changes)  # type: ignore[arg-type]


def fitted(model: Model, cfg_scale: float = 7.0, *, name: str = "ls3-2") -> Plan:
    plan = make_plan("euler-2")
    return replace(plan, name=name, method=None, model=model, cfg_scale=cfg_scale)


def bundle_with(folder: Path, *plans: Plan, **changes: object) -> Bundle:
    """The tiny bundle, whose plans are these."""
    manifest = write_tiny_bundle(folder)
    paths = {}
    for plan in plans:
        paths[plan.name] = path = f"plans/{plan.name}.json"
        file = plan_file(plan)
        for other in plans:
            file = merged(file, plan_file(other)) if other.name == plan.name else file
        (folder / path).write_text(plan_text(file), encoding="utf-8")
    every = {**manifest.plans, **paths}
    rewrite(folder, manifest, plans=every, **{"default_plan": "own-3", **changes})
    return Bundle.open(folder)


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    write_tiny_bundle(tmp_path / "tiny")
    return Bundle.open(tmp_path / "tiny")


def test_names_are_the_bundles_own_or_method_and_steps(tiny: Bundle) -> None:
    choice = PlanChoice(tiny)
    assert choice.plan(None, cfg_scale=7).name == "own-3"
    assert choice.plan("own-3", cfg_scale=7).evaluations == 3
    assert choice.plan("ab3-5", cfg_scale=7).evaluations == 5
    given = make_plan("heun-3")
    assert choice.plan(given, cfg_scale=7) is given
    for wrong in ("ls3-8", 3, ""):
        with pytest.raises(RequestError, match="plan"):
            choice.plan(wrong, cfg_scale=7)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", ["7", None, float("nan")])
def test_what_is_no_guidance_is_refused_before_it_is_compared(tiny: Bundle, scale: object) -> None:
    bundle = bundle_with(tiny.directory.parent / "own", fitted(model_of(tiny)))
    with pytest.raises(RequestError, match="cfg_scale"):
        PlanChoice(bundle).plan("ls3-2", cfg_scale=scale)  # type: ignore[arg-type]


def test_the_nearest_guidance_is_taken_and_told_once(
    tiny: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(tiny)
    bundle = bundle_with(tmp_path / "own", fitted(model, 4.0), fitted(model, 7.0))
    choice = PlanChoice(bundle)
    with caplog.at_level(logging.INFO, logger="omni_rt"):
        assert choice.plan("ls3-2", cfg_scale=7).cfg_scale == 7
        assert choice.plan("ls3-2", cfg_scale=7).cfg_scale == 7
    (told,) = caplog.records
    assert (told.levelno, told.getMessage()) == (
        logging.INFO,
        "plan ls3-2: its rows for guidance 7 are taken",
    )
    caplog.clear()
    for _ in range(2):
        assert choice.plan("ls3-2", cfg_scale=5).cfg_scale == 4
    (told,) = caplog.records
    assert told.levelno == logging.WARNING
    assert "no rows for guidance 5: the nearest, for 4, are taken" in told.getMessage()
    assert "--steps 2 --cfg 5 adds rows for it" in told.getMessage()


def test_rows_handed_over_are_warned_about_too(
    tiny: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    PlanChoice(tiny).plan(fitted(model_of(tiny)), cfg_scale=3)
    assert "no rows for guidance 3" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "other"}, "made for another model than this bundle's"),
        ({"precision": "int8"}, "made for a model in int8, and this bundle's is in fp32"),
    ],
)
def test_rows_of_another_model_are_refused_and_how_to_fit_them_is_said(
    tiny: Bundle, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    other = fitted(model_of(tiny, **changes))
    bundle = bundle_with(tmp_path / "own", other)
    remedy = rf"{message}.*omni-rt fit-solver .*own --steps 2 --cfg 7$"
    with pytest.raises(BundleError, match=remedy):
        PlanChoice(bundle).plan("ls3-2", cfg_scale=7)
    with pytest.raises(RequestError, match=message):
        PlanChoice(tiny).plan(other, cfg_scale=7)
    assert PlanChoice(bundle).plan("euler-2", cfg_scale=7).evaluations == 2


def test_guidance_is_what_is_given_or_the_bundles_own(tiny: Bundle, tmp_path: Path) -> None:
    assert PlanChoice(tiny).guidance(None) == 7
    rewrite(tmp_path / "own", write_tiny_bundle(tmp_path / "own"), default_guidance=2.5)
    choice = PlanChoice(Bundle.open(tmp_path / "own"))
    assert (choice.guidance(None), choice.guidance(4)) == (2.5, 4)
    with pytest.raises(RequestError, match="finite number, got nan"):
        choice.guidance(float("nan"))


def test_a_student_runs_its_own_plan_unguided_and_no_other(tiny: Bundle, tmp_path: Path) -> None:
    student = fitted(model_of(tiny, kind="student"), 1.0, name="student-2")
    refitted = fitted(model_of(tiny), 1.0)
    bundle = bundle_with(tmp_path / "own", student, refitted, default_plan="student-2")
    choice = PlanChoice(bundle)
    assert choice.plan(None, cfg_scale=1).name == "student-2"
    assert choice.plan("ls3-2", cfg_scale=1).name == "ls3-2"
    for own in ("student-2", "ls3-2"):
        with pytest.raises(RequestError, match="cfg_scale must be 1, got 7"):
            choice.plan(own, cfg_scale=7)
    for other in ("euler-100", "own-3", make_plan("ab2-2")):
        with pytest.raises(RequestError, match=r"is distilled.*use student-2"):
            choice.plan(other, cfg_scale=1)


def test_variations_are_faithful_where_the_default_is_fitted_and_a_warning_says_so(
    tiny: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert PlanChoice(tiny).of_variation(None) is None
    assert not caplog.records
    own = bundle_with(tmp_path / "own", fitted(model_of(tiny)), default_plan="ls3-2")
    assert PlanChoice(own).of_variation("ls3-2") == "ls3-2"
    assert not caplog.records
    assert PlanChoice(own).of_variation(None) == "euler-100"
    assert "ls3-2 is fitted and cannot start from a clip: euler-100 is taken" in caplog.text


def test_a_student_makes_no_variations(tiny: Bundle, tmp_path: Path) -> None:
    student = fitted(model_of(tiny, kind="student"), 1.0, name="student-4")
    own = bundle_with(tmp_path / "own", student, default_plan="student-4")
    for plan in (None, "student-4", "euler-100"):
        with pytest.raises(RequestError, match="distilled and starts from noise alone"):
            PlanChoice(own).of_variation(plan)


def test_a_damaged_plan_file_is_one_error(tiny: Bundle, tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path / "own", fitted(model_of(tiny)))
    path = bundle.path("plans/ls3-2.json")
    path.write_text(path.read_text()[:-9])
    with pytest.raises(BundleError, match=r"ls3-2\.json.*truncated"):
        Bundle.open(bundle.directory)
    rewrite(bundle.directory, bundle.manifest)  # listed as it is now
    with pytest.raises(BundleError, match=r"ls3-2\.json: unreadable"):
        PlanChoice(Bundle.open(bundle.directory)).plan("ls3-2", cfg_scale=7)


def test_a_plan_file_under_another_name_is_refused(tiny: Bundle, tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path / "own")
    rewrite(tmp_path / "own", manifest, plans={"mine": "plans/own-3.json"}, default_plan="mine")
    with pytest.raises(BundleError, match="'mine' is 'own-3'"):
        PlanChoice(Bundle.open(tmp_path / "own")).plan(None, cfg_scale=7)
