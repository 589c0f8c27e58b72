"""`omni-rt compare` and `omni-rt report` on the miniature and a damaged copy of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import omni_rt
from omni_rt.bundle import sha256_of
from omni_rt.cli import app
from omni_rt.manifest import FileSpec, read_manifest, write_manifest
from tests.runtime.tiny_bundle import write_tiny_bundle

pytestmark = pytest.mark.slow

FAST = ("--plan", "euler-2", "--runs", 1, "--threads", 2, "--prompt", "three clicks")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def rewritten(folder: Path, file: str, values: np.ndarray) -> Path:
    """A copy of the miniature, not measured, with other bits in one file, whose hash is right."""
    shutil.copytree(omni_rt.miniature(), folder)
    values.tofile(folder / file)
    manifest = read_manifest(folder)
    spec = FileSpec(sha256=sha256_of(folder / file), size_bytes=(folder / file).stat().st_size)
    unmeasured = replace(manifest, presets=None, default_plan="euler-100")
    files = {**manifest.files, file: spec}
    write_manifest(replace(unmeasured, name="other", files=files), folder)
    return folder


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature with a bit of every other of its transformer's 8-bit weights turned over."""
    weights = np.fromfile(omni_rt.miniature() / "graphs/dit.data", np.uint16)
    return rewritten(
        tmp_path_factory.mktemp("coarse") / "b", "graphs/dit.data", weights ^ np.uint16(2)
    )


def test_a_coarse_bundle_is_found_out(coarse: Path, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    budgets = ("--max-latent-error", 1e-3, "--max-size-ratio", 1, "--min-log-mel-cosine", 0.5)
    result = run("compare", omni_rt.miniature(), coarse, *FAST, *budgets, "--html", page, "--json")
    assert result.exit_code == 1
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith("error: budgets missed: --max-latent-error 0.001: ")
    assert "size" not in error
    told = json.loads(result.stdout)
    errors = {name: found["rel_l2"] for name, found in told["outputs"].items()}
    changed = {name for name, found in errors.items() if found > 0}
    assert "context+dit_step/v" in changed
    assert not any(name.startswith(("thinker", "vae", "signal")) for name in changed)
    assert [v["passed"] for v in told["budgets"]] == [False, True, True]
    assert told["ratios"]["size"] == 1
    assert told["made"][0]["request"] == "T2A: three clicks"
    text = page.read_text(encoding="utf-8")
    assert "MISSED" in text
    assert "T2A: three clicks" in text


def test_the_miniature_meets_every_budget_beside_itself() -> None:
    """All kinds of requests that it allows."""
    mini = omni_rt.miniature()
    budgets = ("--max-stage-error", 0, "--max-velocity-error", 0, "--max-latent-error", 0)
    sounds = ("--max-lsd-db", 0, "--max-stft", 0, "--min-log-mel-cosine", 0.999999)
    result = run("compare", mini, mini, *FAST[:-2], *budgets, *sounds)
    assert result.exit_code == 0, result.stderr
    flat = "".join(result.stdout.split())
    for words in ("T2A:", "T2M:", "TTS:", "Remove:", "exact", "pass"):
        assert words in flat
    assert "MISSED" not in flat


def test_one_bundle_is_held_to_its_reference() -> None:
    result = run("compare", omni_rt.miniature(), "--runs", 1, "--max-latent-error", 0.2, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["b"] is None
    assert 0 < told["made"][0]["latents"]["rel_l2"] < 0.2  # as its certificate says
    assert told["made"][0]["sound"]["lsd_db"] < 4


def test_an_error_is_one_line(tmp_path: Path) -> None:
    mini = omni_rt.miniature()
    write_tiny_bundle(tmp_path / "tiny")
    nan = rewritten(tmp_path / "nan", "graphs/vae.data", _nan_weights())
    cases = (
        (("compare", tmp_path / "no"), "no bundle at"),
        (("compare", mini, tmp_path / "no"), "no bundle at"),
        (("compare", mini, tmp_path / "tiny"), "different models"),
        (("compare", mini, mini, "--html", tmp_path / "no/x.html"), "cannot write"),
        (("compare", mini, mini, "--html", tmp_path / "x.pdf"), "cannot write"),
        (("compare", mini, mini, "--engine", "steam"), "steam"),
        (("compare", mini, "--prompt", "rain"), "only with a second bundle"),
        (("compare", nan, "--runs", 1), "vae_decoder gave NaN or infinite waveform"),
        (("report", tmp_path / "no", "-o", tmp_path / "x.html"), "no bundle at"),
        (("report", mini, "-o", tmp_path / "no/x.html"), "cannot write"),
    )
    for arguments, words in cases:
        result = run(*arguments)
        assert result.exit_code == 2
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert words in errors[0]
        assert "Traceback" not in result.output
    assert not list(tmp_path.glob("x.*"))


def _nan_weights() -> np.ndarray:
    size = (omni_rt.miniature() / "graphs/vae.data").stat().st_size
    return np.full(size // 2, 0x7FFF, np.uint16)  # NaN in 16 and in 32 bits


def test_report_writes_the_certificate(tmp_path: Path) -> None:
    result = run("report", omni_rt.miniature(), "-o", tmp_path / "report.html")
    assert result.exit_code == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "certified" in page
    assert "dit_step/v" in page
    assert "this bundle decodes both" in page
    assert page.count("data:image/png") == 2
    result = run("report", omni_rt.miniature(), "-o", tmp_path / "report.html", "--no-sounds")
    assert result.exit_code == 0
    assert "data:image/png" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_bundle_without_a_trajectory_has_a_report_without_sounds(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    result = run("report", tmp_path / "tiny", "-o", tmp_path / "report.html")
    assert result.exit_code == 0
    assert "without spectrograms" in result.stderr
    assert "certified" in (tmp_path / "report.html").read_text(encoding="utf-8")
