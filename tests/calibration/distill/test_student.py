"""A student's checkpoint: exported like any other, and run as it was taught, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omni_rt import Audio, Session, make_plan
from omni_rt.bundle import Bundle
from omni_rt.calibration.distill.objective import Lessons, velocity_of
from omni_rt.calibration.distill.options import DistillOptions
from omni_rt.calibration.distill.run import distill
from omni_rt.calibration.distill.shards import Pair
from omni_rt.calibration.distill.tokens import silence_of, tokens_of
from omni_rt.encode import Conditioning
from omni_rt.engines import Engine
from omni_rt.engines.registry import engine_loader
from omni_rt.errors import ExportError, RequestError
from omni_rt.export.checkpoint import open_checkpoint
from omni_rt.export.student import StudentSpec, student_of
from omni_rt.plans import uniform_grid
from omni_rt.strict_json import to_json
from tests.calibration.distill.tiny import (
    export_student,
    normal,
    teacher_of,
    write_student_checkpoint,
)

GRID = tuple(float(t) for t in uniform_grid(4))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student_checkpoint(tmp_path_factory.mktemp("student"), grid=GRID)


@pytest.fixture(scope="module")
def bundle(student: Path) -> Path:
    return export_student(student, student.parent / "bundle")


def given() -> Conditioning:
    return Conditioning.from_arrays(hidden=normal(5, 12).numpy())


class Counting:
    """Engines that note how many rows every evaluation of the step has."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self._load = engine_loader("auto")

    def __call__(self, bundle: Bundle, stage: str, threads: int | None) -> Engine:
        engine = self._load(bundle, stage, threads)
        return _Watched(engine, self.rows) if stage == "dit_step" else engine


class _Watched:
    def __init__(self, engine: Engine, rows: list[int]) -> None:
        self._engine, self._rows = engine, rows
        self.inputs, self.outputs, self.run = engine.inputs, engine.outputs, engine.run

    def bind(self, buffers: Any) -> Any:
        binding, rows = self._engine.bind(buffers), self._rows

        class Bound:
            def enqueue(self) -> None:
                rows.append(len(buffers["x"]))
                binding.enqueue()

        return Bound()


def test_the_checkpoint_has_the_official_names_and_its_plan(student: Path) -> None:
    raw = json.loads((student / "config.json").read_text())
    spec = student_of(raw)
    assert spec is not None
    assert spec.plan().name == "student-4"
    assert spec.plan().grid == GRID
    assert raw["distilled"] == {"seed": 0}
    ours = open_checkpoint(student / "model.safetensors").model
    theirs = open_checkpoint(student.parent / "teacher" / "model.safetensors").model
    assert {n: (t.shape, t.dtype) for n, t in ours.items()} == {
        n: (t.shape, t.dtype) for n, t in theirs.items()
    }
    moved = {n for n in ours if not torch.equal(ours[n].load(), theirs[n].load())}
    assert moved
    assert all(name.startswith("model.model.") for name in moved)


def test_a_request_is_one_row_an_evaluation_and_one_evaluation_a_time(bundle: Path) -> None:
    counting = Counting()
    with Session(bundle, engine=counting) as session:
        one = session.sample(given(), seed=3)
        assert counting.rows == [1] * 4
        counting.rows.clear()
        three = session.sample([given()] * 3, seed=[3, 4, 5], plan="student-4", cfg_scale=1)
        assert counting.rows == [3] * 4
    np.testing.assert_allclose(three[0], one[0], atol=1e-4)


def test_the_session_makes_what_the_training_rolls_out(student: Path, bundle: Path) -> None:
    """The same weights, noise and tokens (fp16 in a cache): within fp16's rounding, 2^-11."""
    teacher = teacher_of(student)
    noise = normal(1, 16, 8, seed=9)
    with Session(bundle) as session:
        made = session.sample(given(), noise=noise.numpy())
    silence = silence_of(teacher.model)
    pair = Pair(name="", nodes=noise.repeat(5, 1, 1), tokens=tokens_of(teacher.model, given()))
    lessons = Lessons([pair], velocity_of(teacher.dit), GRID, silence, torch.device("cpu"))
    states, conditioning = lessons._given([0])
    rolled = lessons.rolled_out(states[:, 0], conditioning)[-1].numpy()
    assert np.linalg.norm(made - rolled) / np.linalg.norm(rolled) < 2**-11


def test_what_it_was_not_taught_is_refused(bundle: Path) -> None:
    other_plans: list[Callable[[Session], object]] = [
        lambda s: s.sample(given(), plan="euler-4"),
        lambda s: s.sample(given(), plan="ab2-4"),
        lambda s: s.sample(given(), plan=make_plan("ab3-8")),
        lambda s: s.generate("T2A", prompt="a dog", plan="euler-100"),
    ]
    guided: list[Callable[[Session], object]] = [
        lambda s: s.sample(given(), cfg_scale=7.0),
        lambda s: s.generate("T2A", prompt="a dog", cfg_scale=3.0),
        lambda s: s.edit("Remove", Audio(normal(2, 8000).numpy(), 8000), desc="a dog", cfg_scale=7),
    ]
    with Session(bundle) as session:
        for call in other_plans:
            with pytest.raises(RequestError, match=r"distilled and does not follow .* student-4"):
                call(session)
        for call in guided:
            with pytest.raises(RequestError, match="without guidance: cfg_scale must be 1"):
                call(session)
        with pytest.raises(RequestError, match="cannot start at"):
            session.plan().starting_at(0.5)
        assert session.sample(given(), seed=0).shape == (1, 16, 8)


def test_its_plan_is_bound_to_its_weights(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert (opened.manifest.default_plan, opened.manifest.default_guidance) == ("student-4", 1.0)
    assert opened.student_plans == ("student-4",)
    model = opened.plan_files["student-4"].model
    assert model is not None
    assert model.digest == opened.graph_digest("dit_step")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"cfg_scale": 2.0}, "only euler from t = 1 at cfg_scale 1 is known"),
        ({"method": "ab2"}, "got ab2"),
        ({"grid": [1.0, 0.5, 0.7, 0.2, 0.0]}, "fall strictly"),
        ({"steps": 3}, "grid of 4 times"),
        ({"order": 2}, "unknown key 'order'"),
        ({"grid": [0.9, 0.6, 0.4, 0.2, 0.0]}, "from t = 0.9"),
    ],
)
def test_a_configuration_with_a_wrong_plan_is_refused(wrong: dict[str, Any], named: str) -> None:
    raw = to_json(StudentSpec.on(GRID)) | wrong
    with pytest.raises(ExportError, match="config: student") as caught:
        student_of({"student": raw})
    assert named in str(caught.value)


def test_only_a_teacher_can_be_distilled(student: Path, tmp_path: Path) -> None:
    options = DistillOptions(checkpoint=student, out=tmp_path / "again")
    with pytest.raises(ExportError, match="is a student's"):
        distill(options, tell=lambda _: None)
