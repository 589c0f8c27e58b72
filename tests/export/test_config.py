from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from omni_rt import ExportError
from omni_rt.export.config import parse_config, read_config
from omni_rt.export.standin import standin_config


def changed(path: str, value: Any) -> dict[str, Any]:
    """The stand-in's configuration with one value replaced (None deletes it)."""
    config = copy.deepcopy(standin_config())
    node: Any = config
    *parents, last = path.split(".")
    for key in parents:
        node = node[int(key)] if isinstance(node, list) else node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return config


def test_sizes_follow_the_configuration() -> None:
    config = parse_config(standin_config())
    assert config.downsampling_ratio == 2048
    assert config.latent_frames == 485_100 // 2048 == 236
    assert config.thinker_layer == -2


DIT = "model.diffusion.config"
VAE = "model.pretransform.config"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sample_rate", None, "sample_rate is missing"),
        ("sample_rate", "44100", "sample_rate must be int"),
        ("sample_rate", True, "sample_rate must be int"),
        ("sample_size", 0, "must be positive"),
        ("sample_size", 100, "less than one latent frame"),
        ("model_type", "autoencoder", "model_type"),
        ("model", [], "model must be"),
        (f"{DIT}.num_heads", 3, "no multiple"),
        (f"{DIT}.num_heads", 8, "narrower than 32"),
        (f"{DIT}.depth", -1, "must be positive"),
        (f"{DIT}.depth", 10**9, "depth must be 1 to 256, got 1000000000"),
        (f"{DIT}.project_cond_tokens", False, "project_cond_tokens"),
        ("model.diffusion.diffusion_objective", "v", "diffusion_objective"),
        ("model.diffusion.high_level_cond_ids", ["speech_prompt"], "high_level_cond_ids"),
        (f"{VAE}.downsampling_ratio", 512, "product of the strides"),
        (f"{VAE}.decoder.config.c_mults", [1, 2], "2 c_mults but 3 strides"),
        (f"{VAE}.decoder.config.latent_dim", 8, "latent_dim"),
        (f"{VAE}.bottleneck.type", "rvq", "bottleneck"),
        ("model.conditioning.configs.0.id", "clap", "conditioners must be"),
        ("model.conditioning.configs.0.config.layer_idx", 3, "layer_idx"),
        ("model.conditioning.configs.3.config.win_length", 512, "win_length"),
        ("model.conditioning.configs.3.config.target_sample_rate", 22050, "target_sample_rate"),
        ("model.pretransform.scale", "abc", "scale must be positive"),
        ("model.pretransform.scale", 0, "scale must be positive"),
        ("model.pretransform.scale", float("nan"), "scale must be positive"),
    ],
)
def test_a_bad_value_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        parse_config(changed(path, value))


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "null", "\x00"])
def test_a_file_that_is_no_configuration_is_one_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ExportError, match="config"):
        read_config(path)


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot read"):
        read_config(tmp_path / "nothing.json")


def test_the_official_configuration_is_read(golden: Path) -> None:
    config, raw = read_config(golden / "official-config.json")
    assert (config.width, config.depth, config.heads, config.latent_frames) == (2048, 36, 32, 236)
    assert json.loads(json.dumps(raw)) == raw
