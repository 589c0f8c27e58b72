from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from omni_rt import ExportError
from omni_rt.export.checkpoint import load_into
from omni_rt.export.reference.synchformer import (
    VISUAL,
    SynchformerSizes,
    load_synchformer,
    open_synchformer,
    synchformer_shapes,
)
from omni_rt.export.stage_weights import stage_weights
from omni_rt.export.synchformer_stage import synchformer_stage

SIZES = SynchformerSizes(
    width=16,
    heads=2,
    depth=2,
    inner=24,
    tubelets=3,
    patches=4,
    patch_px=4,
    tubelet_frames=2,
)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(shape, generator=generator) / max(shape[-1], 4) ** 0.5
        for name, shape in synchformer_shapes(SIZES).items()
    }


def saved(weights: dict[str, Tensor], folder: Path) -> Path:
    torch.save(weights, folder / "synchformer.pth")
    return folder / "synchformer.pth"


def test_sizes_are_read_from_the_tensors(weights: dict[str, Tensor], tmp_path: Path) -> None:
    sizes, tensors = open_synchformer(saved(weights, tmp_path), heads=2)
    assert sizes == SIZES
    assert tensors.keys() == weights.keys()
    assert (sizes.frames, sizes.frame_px) == (6, 8)


def test_safetensors_and_half_precision_are_read_too(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file({k: v.bfloat16() for k, v in weights.items()}, tmp_path / "s.safetensors")
    sizes, tensors = open_synchformer(tmp_path / "s.safetensors", heads=2)
    found = load_synchformer(sizes, tensors).temp_embed
    assert torch.equal(found, weights[VISUAL + "temp_embed"].bfloat16().float())
    assert not found.requires_grad


def test_tensors_that_are_never_applied_are_passed_over(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    decoys = {
        "afeat_extractor.ast.embeddings.cls_token": torch.zeros(1),
        "vproj.weight": torch.zeros(2, 2),
        "transformer.blocks.0.norm1.weight": torch.zeros(3),
        VISUAL + "patch_embed.proj.weight": torch.zeros(16, 3, 4, 4),
        VISUAL + "patch_embed.proj.bias": torch.zeros(16),
    }
    _, tensors = open_synchformer(saved(weights | decoys, tmp_path), heads=2)
    assert tensors.keys() == weights.keys()


def test_the_error_lists_every_missing_unknown_and_misshaped_tensor(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    del weights[VISUAL + "norm.bias"]
    weights[VISUAL + "head.weight"] = torch.zeros(3)
    weights[VISUAL + "blocks.1.attn.qkv.bias"] = torch.zeros(16)
    with pytest.raises(ExportError) as caught:
        open_synchformer(saved(weights, tmp_path), heads=2)
    message = str(caught.value)
    assert "missing vfeat_extractor.norm.bias" in message
    assert "unknown vfeat_extractor.head.weight" in message
    assert "blocks.1.attn.qkv.bias has shape [16], expected [48]" in message


def test_the_error_lists_what_the_sizes_are_read_from(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    del weights[VISUAL + "pos_embed"]
    weights[VISUAL + "temp_embed"] = torch.zeros(3, 16)
    with pytest.raises(ExportError, match=r"missing .*pos_embed; .*temp_embed .*expected 3 axes"):
        open_synchformer(saved(weights, tmp_path), heads=2)


def test_a_checkpoint_of_something_else_says_what_it_lacks(tmp_path: Path) -> None:
    path = saved({"layer.weight": torch.zeros(3)}, tmp_path)
    with pytest.raises(ExportError, match=r"missing vfeat_extractor\.pos_embed"):
        open_synchformer(path, heads=2)


@pytest.mark.parametrize("heads", [0, -2, 3, 32])
def test_heads_must_divide_the_width(
    heads: int, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=rf"{heads} heads do not divide the width of 16"):
        open_synchformer(saved(weights, tmp_path), heads=heads)


@pytest.mark.parametrize("positions", [1, 6])
def test_patches_must_form_a_square(
    positions: int, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    weights[VISUAL + "pos_embed"] = torch.zeros(1, positions, 16)
    with pytest.raises(ExportError, match=rf"{positions - 1} patches: no square"):
        open_synchformer(saved(weights, tmp_path), heads=2)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "synchformer.pth"
    with pytest.raises(ExportError, match="no file at"):
        open_synchformer(path, heads=2)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ExportError, match="no whole zip file"):
        open_synchformer(path, heads=2)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "not a checkpoint")
    with pytest.raises(ExportError, match=r"synchformer\.pth"):
        open_synchformer(path, heads=2)
    torch.save({VISUAL + "norm.bias": Path("x")}, path)
    with pytest.raises(ExportError, match="more than tensors"):
        open_synchformer(path, heads=2)


def test_the_regrouped_network_is_the_same_function(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    """For sizes that are all unequal: 2 segments of 6 frames of 8 pixels → 3 rows each."""
    sizes, tensors = open_synchformer(saved(weights, tmp_path), heads=2)
    stage = synchformer_stage(sizes)
    values = stage_weights(stage, tensors)
    load_into(stage.module, {k.removeprefix(VISUAL): v for k, v in values.items()})
    frames = torch.rand(2, 6, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1
    wanted = load_synchformer(sizes, tensors)(frames)
    assert wanted.shape == (6, 16)
    assert (stage.module(frames) - wanted).abs().max() < 1e-5 * wanted.abs().max()
