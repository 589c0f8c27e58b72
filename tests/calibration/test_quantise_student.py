"""A student's bundle rounded: held to its own plan, and run as it was taught or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omni_rt import Session, verify
from omni_rt.bundle import Bundle
from omni_rt.calibration.quantise import QuantiseOptions, quantise_bundle
from omni_rt.compare_sounds import reference_sampling
from omni_rt.errors import RequestError
from omni_rt.metrics import rel_l2
from tests.calibration.distill.test_student import Counting, given
from tests.calibration.distill.tiny import export_student, normal, write_student_checkpoint

pytest.importorskip("modelopt")
pytestmark = pytest.mark.slow

GRID = (1.0, 0.8, 0.5, 0.2, 0.0)  # not uniform: a plan of other times would be noticed


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounded")
    checkpoint = write_student_checkpoint(folder, grid=GRID)
    return export_student(checkpoint, folder / "student-fp32", "vae_decoder", "vae_encoder")


@pytest.fixture(scope="module", params=["cpu", "rtx4090"])
def rounded(request: pytest.FixtureRequest, student: Path) -> Bundle:
    out = student.with_name(f"student-{request.param}")
    options = QuantiseOptions(bundle=student, out=out, target=request.param, per_task=1)
    return Bundle.open(quantise_bundle(options))


def test_it_is_certified_on_its_own_plan_at_equal_noise(rounded: Bundle) -> None:
    certificate = rounded.manifest.certificate
    assert certificate is not None
    assert certificate.failed() == ()
    assert any("cfg 1" in name for name in certificate.end_to_end)
    assert certificate.rounding is not None
    assert [v.t for v in certificate.rounding.velocity] == pytest.approx(sorted(GRID[:-1]))
    latents = certificate.rounding.figures["latents"]
    assert "of the student" in latents.origin
    assert 0 < latents.value <= latents.bound
    how = reference_sampling(rounded)
    assert how is not None
    assert (how.plan.grid, how.cfg_scale) == (GRID, 1.0)
    engine = verify.load(rounded, "dit_step")
    assert all(m.passed for m in verify.measure_trajectory(rounded, engine).values())


def test_a_session_runs_one_row_an_evaluation_and_nothing_else(
    rounded: Bundle, student: Path
) -> None:
    assert rounded.student_plans == ("student-4",)
    assert rounded.manifest.default_plan == "student-4"
    noise, counting = normal(1, 16, 8, seed=2).numpy(), Counting()
    with Session(rounded.directory, engine=counting) as session:
        made = session.sample(given(), noise=noise)
        assert counting.rows == [1] * 4
        with pytest.raises(RequestError, match=r"distilled and does not follow .* student-4"):
            session.sample(given(), plan="euler-4")
        with pytest.raises(RequestError, match="it offers student-4"):
            session.sample(given(), plan="faithful")
        with pytest.raises(RequestError, match="cfg_scale must be 1"):
            session.sample(given(), cfg_scale=7.0)
    with Session(student) as session:
        exact = session.sample(given(), noise=noise)
    assert 0 < rel_l2(made, exact) < 0.25
    assert np.isfinite(made).all()


def test_a_student_is_not_rounded_for_guidance(student: Path, tmp_path: Path) -> None:
    guided = QuantiseOptions(bundle=student, out=tmp_path / "int8", cfg_scale=7.0)
    with pytest.raises(RequestError, match="cfg_scale must be 1"):
        quantise_bundle(replace(guided, per_task=1))
