"""`omni-rt plan` and the baselines of `omni-rt bench`, as a person or a script meets them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from omni_rt import bench, latency, miniature
from omni_rt.cli import app
from omni_rt.export.cli import commands
from omni_rt.manifest import (
    EngineSpec,
    ProfileSpec,
    TargetEngines,
    read_manifest,
    write_manifest,
)
from tests.runtime.test_latency import report
from tests.runtime.tiny_bundle import write_tiny_bundle

if not any(command.name == "random-checkpoint" for command in app.registered_commands):
    commands(app)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_plan_says_that_it_is_an_estimate() -> None:
    result = run("plan", miniature(), "--target", "rtx4090")
    assert result.exit_code == 0
    assert "roofline of a call, not a measurement" in result.stdout
    assert "resident: an estimated" in result.stdout
    assert "(this plan)" in result.stdout
    assert "measured" not in result.stdout.replace("measurement", "")


def test_a_plan_as_json_has_every_stage_and_both_modes() -> None:
    told = json.loads(run("plan", miniature(), "--target", "orin", "--json").stdout)
    assert set(told["needed_bytes"]) == {"resident", "staged"}
    assert told["stages"]["dit_step"]["calls"] == 100 * told["segments"]
    assert told["stages"]["thinker_cond"]["cost"]["format"] == "int4"


def test_a_step_in_8_bit_integers_is_counted_at_their_rate() -> None:
    def step(*options: str) -> dict:
        found = run("plan", miniature(), "--target", "rtx4090", "--json", *options)
        return json.loads(found.stdout)["stages"]["dit_step"]["cost"]

    # peaks are published to four digits
    assert step("--int8")["format"] == "int8"
    assert step("--int8")["compute_s"] == pytest.approx(step()["compute_s"] / 2, rel=1e-3)
    assert step("--unrounded")["compute_s"] == pytest.approx(step()["compute_s"] * 2, rel=1e-3)
    for target, options, says in (
        ("orin", ["--int8"], "orin rounds nothing to E4M3"),
        ("rtx4090", ["--int8", "--unrounded"], "give one"),
    ):
        assert says in run("plan", miniature(), "--target", target, *options).stderr


def test_a_bundle_with_engines_shows_what_their_compiler_states(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(miniature(), bundle)
    manifest = read_manifest(bundle)
    spec = EngineSpec(
        path=manifest.constants, graph="g", base_type="float16",
        profiles=(ProfileSpec(sizes={}, activation_bytes=12_345_678),),
        weight_bytes=1, build_s=1.0, build_peak_rss_bytes=1,
        rounded_products=0, fused_attentions=0, attentions=0, signature="",
    )  # fmt: skip
    engines = TargetEngines(
        library="tensorrt_rtx", version="1", compute_capability="8.9", stages={"dit_step": spec}
    )
    write_manifest(replace(manifest, engines={"rtx4090": engines}), bundle)
    shown = run("plan", bundle, "--target", "rtx4090")
    assert "12.3" in shown.stdout, shown.stderr
    assert "compiled" not in run("plan", bundle, "--target", "orin").stdout


def test_a_mode_that_cannot_fit_ends_with_one_line() -> None:
    needed = json.loads(run("plan", miniature(), "--target", "orin", "--json").stdout)[
        "needed_bytes"
    ]
    between = (needed["resident"] + needed["staged"]) / 2e9
    resident = run("plan", miniature(), "--target", "orin", "--available", between)
    assert resident.exit_code == 1
    assert "memory='staged' needs" in resident.stderr
    staged = ("--available", between, "--memory", "staged")
    assert run("plan", miniature(), "--target", "orin", *staged).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "rtx4090"), "give a bundle, or --config"),
        ((miniature(), "--config", "x.json", "--target", "orin"), "give a bundle, or --config"),
        ((miniature(), "--target", "gtx"), "no peak figures of 'gtx'"),
        ((miniature(), "--target", "orin", "--memory", "both"), "memory must be one of"),
        ((miniature(), "--target", "orin", "--plan", "magic"), "magic"),
        ((miniature(), "--target", "orin", "--seconds", "-1"), "duration_s"),
        ((miniature(), "--target", "orin", "--available", "0"), "must be positive"),
        ((miniature(), "--target", "orin", "--available", "nan"), "--available"),
        ((miniature(), "--target", "orin", "--measured", "nothing.json"), "cannot read"),
        (("nowhere", "--target", "orin"), "no bundle at nowhere"),
    ],
)
def test_a_wrong_question_is_one_line(arguments: tuple[object, ...], said: str) -> None:
    result = run("plan", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bundle_that_does_not_say_what_it_is_made_of_is_one_line(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    result = run("plan", tmp_path / "bundle", "--target", "orin")
    assert result.exit_code == 2
    assert "tells no autoencoder" in result.stderr


# Baselines: what is timed is given, so that nothing depends on this machine


@pytest.fixture
def benched(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of a step that the next benchmark finds."""
    seconds = [0.1]
    monkeypatch.setattr(bench, "bench", lambda *_, **__: report(context=0.01, dit_step=seconds[0]))
    return seconds


def test_times_are_kept_and_compared(tmp_path: Path, benched: list[float]) -> None:
    assert run("bench", miniature(), "--save", tmp_path).exit_code == 0
    (file,) = tmp_path.iterdir()
    same = run("bench", miniature(), "--against", tmp_path)
    assert same.exit_code == 0
    assert "1.00 times" in same.stderr
    benched[0] = 0.13
    slower = run("bench", miniature(), "--against", file)
    assert slower.exit_code == 1
    assert f"as slow as the baseline: {latency.LOOP} 1.30 times" in slower.stderr
    assert run("bench", miniature(), "--against", file, "--max-slowdown", 1.5).exit_code == 0


def test_an_unknown_device_is_skipped_and_says_so(
    tmp_path: Path, benched: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("bench", miniature(), "--save", tmp_path)
    monkeypatch.setattr(latency, "this_device", lambda: "another machine")
    result = run("bench", miniature(), "--against", tmp_path)
    assert result.exit_code == 0
    assert f"skipped: {tmp_path} has no baseline of another machine" in result.stderr


def test_what_was_measured_is_shown_beside_the_roofline(
    tmp_path: Path, benched: list[float]
) -> None:
    run("bench", miniature(), "--save", tmp_path / "times.json")
    result = run("plan", miniature(), "--target", "orin", "--measured", tmp_path / "times.json")
    assert result.exit_code == 0
    assert f"measured: {latency.this_device()}, onnxruntime" in result.stdout
    assert "100.000" in result.stdout
