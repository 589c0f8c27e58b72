from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omni_rt import ExportError
from omni_rt.export.checkpoint import THINKER_PREFIX, open_checkpoint, open_thinker_folder
from omni_rt.export.config import read_config
from omni_rt.export.reference.model import checked_tensors
from omni_rt.export.reference.thinker_config import ThinkerSizes
from omni_rt.export.reference.thinker_files import check_thinker


@pytest.fixture
def weights(standin: Path) -> dict[str, torch.Tensor]:
    return load_file(standin / "model.safetensors")


def check(standin: Path, path: Path) -> None:
    config, _ = read_config(standin / "config.json")
    checked_tensors(config, open_checkpoint(path).model)


def test_ckpt_and_safetensors_hold_the_same_tensors(
    standin: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "model.ckpt")
    one = open_checkpoint(tmp_path / "model.ckpt")
    two = open_checkpoint(standin / "model.safetensors")
    assert one.model.keys() == two.model.keys()
    assert one.thinker.keys() == two.thinker.keys()
    assert all(torch.equal(one.model[k].load(), two.model[k].load()) for k in one.model)


def test_the_error_lists_every_unknown_missing_and_misshaped_tensor(
    standin: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    del weights["model.model.transformer.project_out.weight"]
    weights["model.model.extra.weight"] = torch.zeros(3)
    weights["model.model.preprocess_conv.weight"] = torch.zeros(2, 2, 1)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ExportError) as caught:
        check(standin, tmp_path / "model.safetensors")
    message = str(caught.value)
    assert "missing model.model.transformer.project_out.weight" in message
    assert "unknown model.model.extra.weight" in message
    assert "preprocess_conv.weight has shape [2, 2, 1], expected [16, 16, 1]" in message


def test_a_checkpoint_of_something_else_says_what_it_lacks(standin: Path, tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ExportError, match=r"not in the official format: missing .*proj_features"):
        check(standin, tmp_path / "model.safetensors")


def test_a_projection_that_the_original_never_applies_is_passed_over(
    standin: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    weights["conditioner.conditioners.omni_prompt.proj_out.weight"] = torch.zeros(2, 2)
    save_file(weights, tmp_path / "model.safetensors")
    check(standin, tmp_path / "model.safetensors")


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "noise"])
def test_a_damaged_file_is_one_error(
    suffix: str,
    damage: str,
    weights: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": weights}, path)
    else:
        save_file(weights, path)
    whole = path.read_bytes()
    damaged = {"empty": b"", "truncated": whole[: len(whole) // 2], "noise": b"\x93noise" * 50}
    path.write_bytes(damaged[damage])
    with pytest.raises(ExportError, match="checkpoint"):
        open_checkpoint(path)


def test_a_pickle_of_anything_but_tensors_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"state_dict": Trap()}, tmp_path / "zip.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Trap()))
    torch.save({"state_dict": {"a": 3}}, tmp_path / "values.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    for name in ("zip", "plain", "values", "list"):
        with pytest.raises(ExportError, match="checkpoint"):
            open_checkpoint(tmp_path / f"{name}.ckpt")
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no file at"):
        open_checkpoint(tmp_path / "model.ckpt")


def test_the_thinker_is_found_under_old_and_new_names(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    below = {k.removeprefix(THINKER_PREFIX): v for k, v in weights.items() if THINKER_PREFIX in k}
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    save_file(
        {**below, "talker.x": torch.zeros(1), "token2wav.y": torch.zeros(1)},
        tmp_path / "old" / "model.safetensors",
    )
    renamed = {
        k.removeprefix("thinker.").replace("model.", "model.language_model.", 1): v
        for k, v in below.items()
    }
    renamed["model.audio_tower.proj.bias"] = torch.zeros(1)
    save_file(renamed, tmp_path / "new" / "model-00001.safetensors")
    old, new = open_thinker_folder(tmp_path / "old"), open_thinker_folder(tmp_path / "new")
    assert old.keys() | {"audio_tower.proj.bias"} == new.keys()
    assert "model.layers.0.self_attn.q_proj.weight" in old


def test_the_thinker_is_checked_as_strictly(standin: Path) -> None:
    import json

    config = json.loads((standin / "qwen" / "config.json").read_text(encoding="utf-8"))
    tensors = dict(open_checkpoint(standin / "model.safetensors").thinker)
    sizes = ThinkerSizes.from_config(config)
    del tensors["model.layers.2.mlp.up_proj.weight"]  # of the last layer, which is not used
    with pytest.raises(ExportError, match=r"missing model\.layers\.2\.mlp\.up_proj\.weight"):
        check_thinker(sizes, -2, tensors)


@pytest.mark.parametrize("layer", [-1, -4, 0, -9])
def test_a_layer_outside_the_thinker_is_refused(layer: int, standin: Path) -> None:
    import json

    config = json.loads((standin / "qwen" / "config.json").read_text(encoding="utf-8"))
    with pytest.raises(ExportError, match="layer_idx"):
        check_thinker(ThinkerSizes.from_config(config), layer, {})
