"""Whom presets are held to, and whom not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from omni_rt.bundle import Bundle
from omni_rt.calibration.preset_teacher import teacher_of
from omni_rt.errors import BundleError
from tests.runtime import tiny_bundle
from tests.runtime.test_plan_choice import bundle_with, fitted, model_of
from tests.runtime.tiny_bundle import graph_of, write_tiny_bundle


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(tiny_bundle, "STAGES", (*tiny_bundle.STAGES, "signal"))
    write_tiny_bundle(tmp_path / "teacher")
    return Bundle.open(tmp_path / "teacher")


@pytest.fixture
def student(teacher: Bundle, tmp_path: Path) -> Bundle:
    own = fitted(model_of(teacher, kind="student"), 1.0, name="student-4")
    return bundle_with(tmp_path / "student", own, default_plan="student-4")


def test_a_bundle_is_held_to_itself_and_a_student_to_its_teacher(
    teacher: Bundle, student: Bundle
) -> None:
    assert teacher_of(teacher, None) is teacher
    assert teacher_of(student, teacher.directory).id == teacher.id


def test_who_cannot_be_held_to_whom_is_said(teacher: Bundle, student: Bundle) -> None:
    with pytest.raises(BundleError, match="give its teacher's"):
        teacher_of(student, None)
    with pytest.raises(BundleError, match="is no student"):
        teacher_of(teacher, teacher.directory)
    with pytest.raises(BundleError, match="is a student itself"):
        teacher_of(student, student.directory)


def test_a_student_is_asked_in_words_if_its_teacher_is(teacher: Bundle, student: Bundle) -> None:
    """Without a thinker its states are made up: latents of the two would have nothing in common."""
    graphs = {**student.manifest.graphs, "thinker_cond": graph_of("context")}
    asked = Bundle(student.directory, replace(student.manifest, graphs=graphs))
    with pytest.raises(BundleError, match="only one has thinker_cond"):
        teacher_of(asked, teacher.directory)
