"""Plans put into a bundle: it can be opened before, while and after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from omni_rt.bundle import Bundle
from omni_rt.errors import ExportError, RequestError
from omni_rt.export.bundle_plans import (
    carry_plans,
    copy_with_plans,
    model_of,
    put_plans,
)
from omni_rt.plan_choice import PlanChoice
from omni_rt.plan_file import PlanFile, plan_file
from omni_rt.plans import make_plan
from tests.runtime.tiny_bundle import rewrite, write_tiny_bundle


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    write_tiny_bundle(tmp_path / "tiny")
    return Bundle.open(tmp_path / "tiny")


def fitted(bundle: Bundle, cfg_scale: float = 7.0, *, name: str = "ls3-2") -> PlanFile:
    plan = make_plan("euler-2")
    return plan_file(
        replace(plan, name=name, method=None, model=model_of(bundle, "fitted"), cfg_scale=cfg_scale)
    )


def files_of(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_plan_is_added_to_the_bundle_where_it_lies(tiny: Bundle) -> None:
    before = files_of(tiny.directory)
    put_plans(tiny, [fitted(tiny)])
    after = Bundle.open(tiny.directory)
    assert PlanChoice(after).plan("ls3-2", cfg_scale=7).cfg_scale == 7
    assert set(after.plan_files) == {"own-3", "ls3-2"}
    (added,) = files_of(tiny.directory) - before
    assert added.startswith("plans/ls3-2.")
    after.require_certificate()  # it is of the graphs, which are the same


def test_guidance_scales_come_together_and_the_old_file_goes(tiny: Bundle) -> None:
    put_plans(tiny, [fitted(tiny, 7.0)])
    (first,) = {p for p in files_of(tiny.directory) if "ls3-2" in p}
    put_plans(tiny, [fitted(tiny, 4.0)])  # the bundle as it was opened: the new plans are read
    after = Bundle.open(tiny.directory)
    assert after.plan_files["ls3-2"].guidance == (4.0, 7.0)
    assert first not in files_of(tiny.directory)


def test_a_kill_before_the_manifest_is_replaced_leaves_the_bundle_as_it_was(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_plans(tiny, [fitted(tiny, 7.0)])

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("omni_rt.manifest.manifest_text", killed)
    with pytest.raises(KeyboardInterrupt):
        put_plans(tiny, [fitted(tiny, 4.0)])
    assert Bundle.open(tiny.directory).plan_files["ls3-2"].guidance == (7.0,)


def test_a_copy_has_the_plan_and_the_bundle_does_not(tiny: Bundle, tmp_path: Path) -> None:
    copy_with_plans(tiny, [fitted(tiny)], tmp_path / "copy", overwrite=False)
    assert set(Bundle.open(tmp_path / "copy").plan_files) == {"own-3", "ls3-2"}
    assert set(Bundle.open(tiny.directory).plan_files) == {"own-3"}
    with pytest.raises(ExportError, match="is there already"):
        copy_with_plans(tiny, [fitted(tiny)], tmp_path / "copy", overwrite=False)


def test_a_model_that_was_replaced_meanwhile_is_noticed(tiny: Bundle) -> None:
    (tiny.directory / "graphs/dit_step.data").write_bytes(b"other weights")
    rewrite(tiny.directory, tiny.manifest)
    with pytest.raises(ExportError, match="has another model now"):
        put_plans(tiny, [fitted(tiny)])
    assert set(Bundle.open(tiny.directory).plan_files) == {"own-3"}


def test_a_bundle_without_a_step_keeps_analytic_plans_when_it_is_rounded(
    tiny: Bundle, tmp_path: Path
) -> None:
    folders = tmp_path / "source", tmp_path / "rounded"
    for folder in folders:
        manifest = write_tiny_bundle(folder)
        graphs = {s: g for s, g in manifest.graphs.items() if s != "dit_step"}
        own = {} if folder.name == "rounded" else manifest.plans
        rewrite(folder, manifest, graphs=graphs, plans=own)
    source, rounded = map(Bundle.open, folders)
    manifest, lost = carry_plans(source, rounded)
    assert (list(manifest.plans), lost) == (["own-3"], ())


def test_a_place_that_cannot_be_written_is_one_error(tiny: Bundle) -> None:
    for path in (tiny.directory / "plans").iterdir():
        path.rename(tiny.directory / path.name)
    (tiny.directory / "plans").rmdir()
    (tiny.directory / "plans").write_text("a file")
    rewrite(tiny.directory, tiny.manifest, plans={"own-3": "own-3.json"})
    with pytest.raises(RequestError, match="cannot write"):
        put_plans(Bundle.open(tiny.directory), [fitted(tiny)])


def rounded_as(folder: Path) -> Bundle:
    """A bundle of another precision, without plans."""
    manifest = write_tiny_bundle(folder)
    graphs = {**manifest.graphs}
    graphs["dit_step"] = replace(graphs["dit_step"], precision="int8")
    rewrite(folder, manifest, graphs=graphs, plans={}, default_plan="ls3-2")
    return Bundle.open(folder)


def test_rounding_keeps_a_students_plan_and_drops_fitted_ones(tiny: Bundle, tmp_path: Path) -> None:
    student = fitted(tiny, 1.0, name="student-2")
    student = replace(student, model=model_of(tiny, "student"))
    put_plans(tiny, [student, fitted(tiny)])
    source, rounded = Bundle.open(tiny.directory), rounded_as(tmp_path / "rounded")
    manifest, lost = carry_plans(source, rounded)
    assert lost == ("ls3-2",)
    after = Bundle.open(rounded.directory)
    assert after.manifest == manifest
    assert manifest.default_plan == "euler-100"
    assert after.plan_files["own-3"] == source.plan_files["own-3"]
    plan = PlanChoice(after).plan("student-2", cfg_scale=1)
    assert plan.model == model_of(rounded, "student")
