"""The committed students: of the committed teacher, each with a bundle that is its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from omni_rt import Session, verify
from omni_rt.bundle import Bundle
from omni_rt.errors import ExportError
from omni_rt.export.build import export_bundle
from omni_rt.export.checkpoint import open_checkpoint
from omni_rt.export.miniature import checkpoint
from omni_rt.export.miniature.scoring_run import Settings, score_kind
from omni_rt.export.reference.model import DIT
from omni_rt.metrics import rel_l2
from tests.conftest import REPOSITORY
from tests.export.miniature.test_committed import MOST_BYTES, size_of

TEACHER = REPOSITORY / checkpoint.FOLDER
STUDENTS = [REPOSITORY / "miniature" / f"student-{steps}" for steps in (8, 4)]
of_each = pytest.mark.parametrize("folder", STUDENTS, ids=lambda folder: folder.name)


@of_each
def test_it_is_the_teacher_but_for_its_transformer_and_its_plan(folder: Path) -> None:
    own, teacher = (
        open_checkpoint(path / checkpoint.MODEL_FILE) for path in (folder / "checkpoint", TEACHER)
    )
    raw = json.loads((folder / "checkpoint" / checkpoint.CONFIG_FILE).read_text(encoding="utf-8"))
    assert raw["student"]["steps"] == int(folder.name.rpartition("-")[2])
    assert raw["distilled"]["teacher"] == teacher.sha256()
    assert own.model.keys() == teacher.model.keys()
    changed = set()
    for name, tensor in own.model.items():
        ours, theirs = tensor.load(), teacher.model[name].load()
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
        if not torch.equal(ours, theirs):
            changed.add(name)
    assert any(".layers." in name for name in changed)
    assert all(name.startswith(DIT) for name in changed)
    teacher_raw = json.loads((TEACHER / checkpoint.CONFIG_FILE).read_text(encoding="utf-8"))
    assert {k: v for k, v in raw.items() if k not in ("student", "distilled")} == teacher_raw


@of_each
def test_its_bundle_is_small_certified_and_follows_its_plan_alone(folder: Path) -> None:
    assert (folder / "checkpoint" / checkpoint.MODEL_FILE).stat().st_size <= MOST_BYTES
    assert size_of(folder / "bundle") <= MOST_BYTES
    with Session(folder / "bundle", threads=1) as session:
        assert session.bundle.student_plans == (folder.name,)
        assert session.bundle.manifest.default_plan == folder.name
        assert session.guidance(None) == 1
        certificate = session.bundle.manifest.certificate
    assert certificate is not None
    assert certificate.failed() == ()


@pytest.mark.slow
@of_each
def test_its_bundle_was_rounded_from_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    """What rounding was measured against is what the exporter makes of the checkpoint."""
    options = checkpoint.export_options(
        TEACHER, tmp_path / "exported", student=folder / "checkpoint"
    )
    stages = ("transcript", "context", "signal", "dit_step")
    exported = Bundle.open(export_bundle(replace(options, stages=stages)))
    committed = Bundle.open(folder / "bundle")
    arrays, engine = committed.parity("dit_step"), verify.load(committed, "dit_step")
    asked = verify.stage_inputs(committed, "context", committed.parity("context"))
    keys = verify.load(exported, "context").run(**asked)  # not folded, as the committed ones are
    inputs = {**verify.stage_inputs(committed, "dit_step", arrays), **keys}
    made = verify.load(exported, "dit_step").run(**inputs)
    assert rel_l2(made["v"], arrays["v"]) <= verify.STAGE_BOUND
    assert all(m.passed for m in verify.measure_stage(committed, "dit_step", engine).values())


@pytest.mark.slow
@of_each
def test_it_plays_what_was_asked_for(folder: Path) -> None:
    """Of 400 notes 99.5 % or more were at the right pitch at first, and all chords were right."""
    with Session(folder / "bundle", threads=1) as session:
        plan = session.plan(None, cfg_scale=1.0)
        settings = Settings(plan=plan, cfg_scale=1.0, count=16, seed=2026)
        for kind, check in (("note", "pitch"), ("chord", "root")):
            found = score_kind(session, kind, settings, lambda *_: None)
            assert found.checks[check].share.passed >= 15 / 16, kind


def test_it_is_exported_with_what_else_its_teacher_has(tmp_path: Path) -> None:
    own = STUDENTS[0] / "checkpoint"
    options = checkpoint.export_options(TEACHER, tmp_path / "out", student=own)
    assert (options.config.parent, options.checkpoint.parent) == (own, own)
    assert options.qwen == TEACHER / checkpoint.THINKER_FOLDER
    assert options.name == "miniature-student-8"
    assert checkpoint.export_options(TEACHER, tmp_path / "out").name == "miniature"
    with pytest.raises(ExportError, match="holds no student"):
        checkpoint.export_options(TEACHER, tmp_path / "out", student=TEACHER)
