"""The committed bundle: made of the committed checkpoint, and right only because it was trained."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import omni_rt
from omni_rt import Session, verify
from omni_rt.bundle import Bundle
from omni_rt.export.build import export_bundle
from omni_rt.export.miniature import checkpoint
from omni_rt.export.miniature.scoring_run import Settings, score_kind
from omni_rt.metrics import rel_l2
from tests.conftest import REPOSITORY

CHECKPOINT = REPOSITORY / checkpoint.FOLDER
BUNDLE = REPOSITORY / "miniature" / "bundle"
MOST_BYTES = 12 * 2**20  # of the model's file, without tokenizer and Synchformer; of the bundle


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_small_and_comes_with_the_package() -> None:
    assert (CHECKPOINT / checkpoint.MODEL_FILE).stat().st_size <= MOST_BYTES
    assert size_of(BUNDLE) <= MOST_BYTES
    assert (omni_rt.miniature() / "manifest.json").read_bytes() == (
        BUNDLE / "manifest.json"
    ).read_bytes()


@pytest.mark.slow
def test_it_has_the_stages_and_texts_of_the_checkpoint(unrounded_miniature: Path) -> None:
    def files(bundle: Path) -> set[Path]:
        added = ("parity", "plans")  # by certificates and by fit-solver
        every = (path for path in bundle.rglob("*") if path.is_file())
        return {path.relative_to(bundle) for path in every if path.parent.name not in added}

    assert files(BUNDLE) == files(unrounded_miniature)
    same = [name for name in files(BUNDLE) if name.parts[0] == "text"]
    assert same
    for name in same:
        assert digest(BUNDLE / name) == digest(unrounded_miniature / name), name


# Of the autoencoder, whose weights are stored in 16 bits: 2.1e-4; of other stages 1e-6.
SAME = 5e-4


@pytest.mark.slow
def test_what_it_is_measured_by_is_what_the_checkpoint_computes(unrounded_miniature: Path) -> None:
    """Real calls of every stage. Keys and values are divided by what is folded into others, so
    those of `context` are made again, and a stage that is given what it cached is left out.
    """
    committed, exported = Bundle.open(BUNDLE), Bundle.open(unrounded_miniature)
    exact: dict[str, np.ndarray] = {}
    for stage in sorted(committed.manifest.parity.keys() - {verify.END_TO_END}):
        arrays = committed.parity(stage)
        inputs = verify.stage_inputs(committed, stage, arrays)
        if any(name.startswith("past_") for name in inputs):
            continue
        made = verify.load(exported, stage).run(
            **{**inputs, **(exact if stage == "dit_step" else {})}
        )
        if stage == "context":
            exact = made
            continue
        for name, value in made.items():
            assert rel_l2(value, arrays[name]) <= SAME, (stage, name)
    assert exact  # `context` comes before `dit_step`


@pytest.mark.slow
def test_it_is_within_its_bounds_of_that() -> None:
    committed = Bundle.open(BUNDLE)
    found = verify.certificate(committed, reference="the checkpoint")
    assert not found.failed()


@pytest.mark.slow
def test_with_shuffled_weights_it_scores_at_chance(tmp_path: Path) -> None:
    """The scores judge the model, not the pipeline around it.

    Of 16 notes at a chance of 1 in 24, of chords at 1 in 12: more than 6 right by luck has odds
    below 1 in 1000.
    """
    folder = tmp_path / "checkpoint"
    checkpoint.copy_files(CHECKPOINT, folder)
    torch.manual_seed(0)
    tensors = load_file(folder / checkpoint.MODEL_FILE)
    for name, value in tensors.items():
        if name.startswith("model.model.transformer.layers.") and value.dim() > 1:
            order = torch.randperm(value.numel())
            tensors[name] = value.flatten()[order].reshape(value.shape).contiguous()
    save_file(tensors, folder / checkpoint.MODEL_FILE)
    with Session(export_bundle(checkpoint.export_options(folder, tmp_path / "bundle"))) as session:
        settings = Settings(plan=session.plan("ab3-8"), cfg_scale=3.0, count=16, seed=2026)
        for kind, check in (("note", "pitch"), ("chord", "root"), ("remove", "kept")):
            found = score_kind(session, kind, settings, lambda *_: None).checks[check].share
            assert found.passed <= 6 / 16, (kind, found)
