"""The step that is timed against itself, at a width that takes seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from omni_rt.calibration import cli_random
from omni_rt.calibration.bench_step import (
    OPENVINO_INT8,
    ORT_FP32,
    ORT_INT8,
    TORCH_BF16,
    TORCH_FP32,
    StepBench,
    bench_step,
)
from omni_rt.errors import ExportError
from omni_rt.export.config import ModelConfig, parse_config
from omni_rt.export.random_checkpoint import random_tensor
from omni_rt.export.standin import standin_config
from omni_rt.manifest import Figure

pytest.importorskip("modelopt")


def small_config() -> ModelConfig:
    return parse_config(standin_config())


@pytest.fixture(scope="module")
def report() -> StepBench:
    return bench_step(small_config(), depth=2, runs=2, threads=1)


def test_every_engine_is_timed_and_its_error_known(report: StepBench) -> None:
    names = [rival.name for rival in report.rivals]
    assert names[:4] == [TORCH_FP32, TORCH_BF16, ORT_FP32, ORT_INT8]
    for rival in report.rivals:
        assert 0 < rival.time.min_s <= rival.time.p50_s
        assert rival.time.runs == 2
        assert rival.computes in ("f32", "bf16")


def test_more_blocks_than_any_model_has_are_one_error() -> None:
    told: list[str] = []
    with pytest.raises(ExportError, match="depth must be 1 to 256"):
        bench_step(small_config(), depth=10**9, runs=1, threads=1, progress=told.append)
    assert told == []


def test_errors_are_those_of_the_formats(report: StepBench) -> None:
    """The order that the specification's table has: fp32, bf16, INT8."""
    found = {rival.name: rival for rival in report.rivals}
    assert found[TORCH_FP32].stack_rel_l2 == 0
    # the certificate's bound of an unrounded stage
    assert found[ORT_FP32].stack_rel_l2 < 2e-5
    for errors in ("block_rel_l2", "stack_rel_l2"):
        exact, half, rounded = (
            getattr(found[name], errors) for name in (ORT_FP32, TORCH_BF16, ORT_INT8)
        )
        assert exact < half < rounded


def test_the_rounded_step_computes_alike_in_both_libraries(report: StepBench) -> None:
    """Both sum 8-bit products exactly; what is left is OpenVINO's bf16, where there is one."""
    found = {rival.name: rival for rival in report.rivals}
    if OPENVINO_INT8 not in found:
        pytest.skip("OpenVINO is not installed: omni_rt[openvino]")
    ratio = found[OPENVINO_INT8].stack_rel_l2 / found[ORT_INT8].stack_rel_l2
    assert ratio == pytest.approx(1, abs=0.1)


def test_figures_are_held_to_the_bounds_of_8_bit_integers(report: StepBench) -> None:
    found = {rival.name: rival for rival in report.rivals}
    rounded = found[ORT_INT8]
    faster, half, block, stack = report.figures.values()
    assert faster.value == found[ORT_FP32].time.p50_s / rounded.time.p50_s
    assert half.value == rounded.time.p50_s / found[TORCH_BF16].time.p50_s
    assert (block.value, stack.value) == (rounded.block_rel_l2, rounded.stack_rel_l2)
    assert stack.bound == pytest.approx(2**0.5 * block.bound)


def test_outliers_change_nothing_but_some_channels_of_block_norms() -> None:
    def tensor(name: str, *, outliers: bool) -> torch.Tensor:
        shape = (256, 8) if name.endswith("weight") else (256,)
        return random_tensor(name, shape, seed=3, rotary_width=8, outliers=outliers)

    for name in ("m.transformer.layers.1.ff.ff.2.weight", "m.transformer.norm.gamma"):
        assert torch.equal(tensor(name, outliers=True), tensor(name, outliers=False))
    name = "m.transformer.layers.1.ff_norm.gamma"
    ratio = tensor(name, outliers=True) / tensor(name, outliers=False)
    assert ratio.unique().tolist() == [1.0, 16.0]
    assert int((ratio > 1).sum()) == 2  # of 256 channels, one in 128


def test_the_command_prints_json_and_without_outliers_less_is_lost(
    report: StepBench, tmp_path: Path
) -> None:
    """Outliers are what an activation's one scale has to cover."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(standin_config()))
    counts = ["--depth", "1", "--runs", "1", "--threads", "1"]
    app = typer.Typer()
    cli_random.commands(app)
    done = CliRunner().invoke(
        app, ["bench-step", "--config", str(config), *counts, "--no-outliers", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["depth"], found["outliers"]) == (1, False)
    (plain,) = [rival for rival in found["rivals"] if rival["name"] == ORT_INT8]
    (ours,) = [rival for rival in report.rivals if rival.name == ORT_INT8]
    assert plain["block_rel_l2"] < ours.block_rel_l2


def test_the_table_names_the_machine_and_what_is_missed(
    report: StepBench, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = Figure(value=2.0, bound=4.0, at_least=True, origin="")
    cli_random._print(replace(report, figures={"times faster": slow}))
    printed = " ".join(capsys.readouterr().out.split())
    assert report.device.split(",")[0] in printed
    assert " other " in printed  # what is not rounded, above its types
    assert all(rival.computes in printed for rival in report.rivals)
    assert "INT8: 2 times faster, at least 4: MISSED" in printed
