"""The whole of it on the stand-in: prompts to a student, and on again after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from omni_rt.calibration.distill import cli
from omni_rt.calibration.distill.options import CacheOptions, DistillOptions, TrainingOptions
from omni_rt.calibration.distill.run import distill
from omni_rt.errors import ExportError
from omni_rt.export.random_checkpoint import write_random_checkpoint
from tests.calibration.distill.tiny import config, tiny_sizes

_APP = typer.Typer()
cli.commands(_APP)


def asked(standin: Path, bundle: Path, out: Path) -> DistillOptions:
    return DistillOptions(
        checkpoint=standin,
        bundle=bundle,
        out=out,
        cache=CacheOptions(steps=2, teacher_steps=2, shards=2, per_task=1, tasks=("T2A",)),
        training=TrainingOptions(
            segment_steps=2, tracking_steps=1, batch=2, warmup_steps=1, rate=1e-3, save_every_s=0
        ),
    )


@pytest.mark.slow
def test_a_run_killed_anywhere_makes_the_same_student(
    standin: Path, standin_bundle: Path, tmp_path: Path
) -> None:
    whole = distill(asked(standin, standin_bundle, tmp_path / "whole"), tell=lambda _: None)
    assert whole.held_out_error is not None
    options = asked(standin, standin_bundle, tmp_path / "killed")
    for moment in ("shard 1", "tracking: step 1/1", "writing the student"):

        def tell(text: str, moment: str = moment) -> None:
            if moment in text:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            distill(options, tell=tell)
        assert not options.out.exists()
    again = distill(options, tell=lambda _: None)
    ours, theirs = (load_file(r.out / "model.safetensors") for r in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    raw = json.loads((again.out / "config.json").read_text())
    assert raw["student"]["grid"] == [1.0, 0.5, 0.0]
    assert raw["distilled"]["cfg_scale"] == 7.0
    with pytest.raises(ExportError, match="is there already"):
        distill(options, tell=lambda _: None)
    assert distill(replace(options, overwrite=True), tell=lambda _: None) == again
    elsewhere = replace(options, out=tmp_path / "other", work=tmp_path / "killed.work")
    changed = replace(elsewhere, training=replace(options.training, segment_steps=3))
    with pytest.raises(ExportError, match="segment_steps was 2, now 3"):
        distill(changed, tell=lambda _: None)


def test_another_models_bundle_is_refused(
    standin: Path, standin_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((standin / "config.json").read_text())
    tensors = load_file(standin / "model.safetensors")
    name = "model.model.preprocess_conv.weight"
    tensors[name] = tensors[name] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ExportError, match="was made from another checkpoint"):
        distill(asked(tmp_path, standin_bundle, tmp_path / "out"), tell=lambda _: None)


def test_a_dry_run_needs_a_configuration_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config()))
    result = CliRunner().invoke(_APP, ["--dry-run", "--config", str(path), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found) == [
        "all weights",
        "all weights, checkpointing",
        "LoRA 64",
        "LoRA 64, checkpointing",
    ]
    assert found["all weights"]["optimiser"] == 2 * found["all weights"]["gradients"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "give --checkpoint and --out"),
        (["--dry-run"], "give --config FILE, or --checkpoint"),
        (["--checkpoint", "{here}", "--out", "{here}/o"], "no model.safetensors or model.ckpt in"),
        (["--checkpoint", "{here}/config.json", "--out", "{here}/o"], "give --config FILE"),
        (["--checkpoint", "{here}/none", "--out", "{here}/o"], "no checkpoint at"),
        (["--checkpoint", "{here}/none", "--dry-run"], "no checkpoint at"),
        (["--checkpoint", "x", "--out", "{here}"], "is there already"),
        (["--checkpoint", "x", "--out", "{here}/c", "--overwrite"], "holds no config.json"),
        (["--checkpoint", "x", "--out", "y", "--captions", "{here}/no"], "cannot read captions"),
        (["--checkpoint", "x", "--out", "y", "--tasks", "T2A,t2m"], "no task t2m; there are T2A"),
        (["--checkpoint", "x", "--out", "y", "--cfg-scale", "inf"], "cfg_scale must be a finite"),
        (["--checkpoint", "x", "--out", "y", "--rate", "nan"], "rate must be a number above 0"),
        (["--dry-run", "--save-every", "inf"], "save_every must be seconds"),
        (["--optimiser", "sgd"], "optimiser must be one of adamw, adamw8bit"),
        (["--checkpoint", "x", "--out", "y", "--steps", "30"], "has nothing to teach"),
        (["--checkpoint", "x", "--out", "y", "--shards", "99999999999"], "shards must be 1 to"),
        (["--checkpoint", "x", "--out", "y", "--per-task", "99999999999"], "per_task must be 1 to"),
        (["--checkpoint", "x", "--out", "y", "--teacher-steps", "99999999999"], "at most 10000"),
        (["--batch", "99999999999"], "batch must be at most"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, arguments: list[str], named: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config()))
    (tmp_path / "c").mkdir()
    given = [argument.replace("{here}", str(tmp_path)) for argument in arguments]
    result = CliRunner().invoke(_APP, given)
    assert result.exit_code == 2
    assert any(part in result.output.replace("\n", " ") for part in named.split("|"))


def test_without_a_bundle_or_a_thinker_nothing_reads_prompts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config()))
    write_random_checkpoint(tmp_path / "model.safetensors", tiny_sizes())
    with pytest.raises(ExportError, match="nothing reads prompts: give --bundle"):
        distill(DistillOptions(checkpoint=tmp_path, out=tmp_path / "out"), tell=lambda _: None)
