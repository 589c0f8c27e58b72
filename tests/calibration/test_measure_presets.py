"""Presets measured from end to end, and what cannot be."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from omni_rt import miniature
from omni_rt.bundle import Bundle
from omni_rt.calibration import measure_presets as measuring
from omni_rt.calibration.measure_presets import MeasureOptions, measure_presets
from omni_rt.errors import BundleError, ExportError, OmniError, RequestError
from omni_rt.export.bundle_plans import model_of, put_plans
from omni_rt.export.bundle_presets import copy_with_presets, put_presets
from omni_rt.plan_file import plan_file
from omni_rt.plans import make_plan
from omni_rt.presets import PRESETS
from tests.calibration.distill.tiny import (
    export_student,
    write_student_checkpoint,
)
from tests.export.test_bundle_plans import fitted
from tests.runtime.test_preset_record import FAITHFUL, RECORD, measured_with
from tests.runtime.tiny_bundle import write_tiny_bundle


def test_no_torch_is_needed() -> None:
    """It is measured where it runs."""
    code = "import sys, omni_rt.calibration.measure_presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.slow
def test_a_teacher_and_its_student_are_measured_and_the_default_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a model of random weights, with plans of few steps under the presets' names."""
    student = write_student_checkpoint(tmp_path, grid=(1.0, 0.75, 0.5, 0.25, 0.0))
    teacher = export_student(tmp_path / "teacher", tmp_path / "b", "vae_decoder")
    own = export_student(student, tmp_path / "s", "vae_decoder")
    short = replace(PRESETS["faithful"], plan="euler-4")
    monkeypatch.setattr(measuring, "FAITHFUL", short)
    monkeypatch.setitem(PRESETS, "faithful", short)  # type: ignore[arg-type]
    model = model_of(Bundle.open(teacher), "fitted")
    fast = replace(make_plan("ab2-8"), name="ls3-8", method=None, model=model, cfg_scale=7.0)
    put_plans(Bundle.open(teacher), [plan_file(fast)])
    options = MeasureOptions(
        bundle=teacher, reference="euler-16", cases=2, count=2, kinds="note", threads=1
    )
    told: list[str] = []
    record = measure_presets(options, progress=told.append)
    assert any(line.startswith("without note: this bundle has no") for line in told)
    # with each of two seeds, and not again as a preset
    assert sum(line.startswith("euler-4 on ") for line in told) == 2
    assert record.count == 0
    assert record.presets.keys() == {"faithful", "fast"}
    assert (record.presets["faithful"].passes, record.presets["fast"].passes) == (8, 16)
    assert record.presets["fast"].latents < record.presets["faithful"].latents
    assert record.spread.log_mel > 0
    after = Bundle.open(teacher)
    assert after.manifest.presets == record
    assert after.manifest.default_plan == record.presets[record.default].plan
    of_student = replace(options, bundle=own, teacher=teacher, out=tmp_path / "copy")
    found = measure_presets(of_student)
    assert found.teacher == after.id
    assert found.presets["student-4"].passes == 4
    assert found.spread == record.spread
    copied = Bundle.open(tmp_path / "copy").manifest
    assert (copied.presets, copied.default_plan) == (found, "student-4")
    assert Bundle.open(own).manifest.presets is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"cases": 0}, RequestError, "cases must be 1 to 256"),
        ({"cases": 10**10}, RequestError, "cases must be 1 to 256"),
        ({"count": -1}, RequestError, "count must be 1 to 10000"),
        ({"count": 10**11}, RequestError, "count must be 1 to 10000"),
        ({"reference": "consistency-4"}, RequestError, "adds fresh noise"),
        ({"reference": "ls3-4"}, RequestError, "unknown plan"),
        ({"cfg_scale": float("nan")}, RequestError, "cfg_scale"),
        ({"kinds": "toaster"}, RequestError, "unknown kinds"),
        ({"scores": Path(__file__)}, ExportError, "cannot keep scores in"),
        ({"engine": "toaster"}, RequestError, "engine must be one of"),
        ({"out": Path("nowhere/out")}, ExportError, "no folder nowhere"),
        ({"bundle": Path("nowhere")}, BundleError, "no bundle at nowhere"),
    ],
)
def test_what_cannot_be_measured_is_one_error_before_any_work(
    changes: dict[str, object], error: type[OmniError], message: str
) -> None:
    told: list[str] = []
    with pytest.raises(error, match=message):
        measure_presets(
            replace(MeasureOptions(bundle=miniature()), **changes),  # type: ignore[arg-type]
            progress=told.append,
        )
    assert told == []


def test_scores_lie_beside_the_bundle_wherever_it_is_named_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b/graphs").mkdir(parents=True)
    for inside, name in (("b", "."), ("b/graphs", ".."), (".", "b")):
        monkeypatch.chdir(tmp_path / inside)
        assert MeasureOptions(bundle=Path(name)).kept_scores == tmp_path / "b.scores"
    assert MeasureOptions(bundle=Path("b"), out=Path("c")).kept_scores == tmp_path / "c.scores"
    assert MeasureOptions(bundle=Path("b"), scores=Path("d")).kept_scores == Path("d")


def test_a_plan_that_is_fitted_again_takes_the_record_along(tmp_path: Path) -> None:
    """And the default with it; another plan that comes to the bundle changes nothing."""
    write_tiny_bundle(tmp_path / "tiny")
    bundle = Bundle.open(tmp_path / "tiny")
    put_plans(bundle, [fitted(bundle, name="ls3-8")])
    bundle = Bundle.open(bundle.directory)
    own = replace(FAITHFUL, plan="ls3-8", plan_sha256=bundle.plan_sha256("ls3-8"))
    record = measured_with(bundle.manifest, replace(RECORD, presets={"fast": own}))
    put_presets(bundle, record)
    bundle = Bundle.open(bundle.directory)
    assert (bundle.manifest.presets, bundle.manifest.default_plan) == (record, "ls3-8")
    put_plans(bundle, [fitted(bundle, name="ls3-16")])
    bundle = Bundle.open(bundle.directory)
    assert (bundle.manifest.presets, bundle.manifest.default_plan) == (record, "ls3-8")
    copy_with_presets(bundle, record, tmp_path / "copy", overwrite=False)
    assert Bundle.open(tmp_path / "copy").manifest.presets == record
    put_plans(bundle, [fitted(bundle, 4.0, name="ls3-8")])
    after = Bundle.open(bundle.directory).manifest
    assert (after.presets, after.default_plan) == (None, "euler-100")
    with pytest.raises(ExportError, match="was changed meanwhile"):
        put_presets(bundle, record)
