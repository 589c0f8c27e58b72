"""Nothing in the exporter is tied to the official sizes: each of these differs in many of them.

The exported bundle's own certificate is the parity proof: unregrouped torch against the graphs.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omni_rt import Conditioning, Session
from omni_rt.bundle import Bundle
from omni_rt.export.build import export_bundle
from omni_rt.export.checkpoint import open_checkpoint
from omni_rt.export.config import parse_config
from omni_rt.export.contract import MODEL_STAGES
from omni_rt.export.random_checkpoint import sizes_for, write_random_checkpoint
from omni_rt.export.reference.from_bundle import from_bundle
from omni_rt.export.sources import ExportOptions
from omni_rt.export.standin import standin_config

pytestmark = pytest.mark.slow

Config = dict[str, Any]


def narrow_heads(config: Config) -> Config:
    """Heads of 32: every dimension rotates. One block; transcript without a length projection."""
    dit = config["model"]["diffusion"]["config"]
    dit |= {"embed_dim": 96, "num_heads": 3, "depth": 1, "io_channels": 6}
    conditioners = {c["id"]: c["config"] for c in config["model"]["conditioning"]["configs"]}
    conditioners["speech_prompt"] |= {"seq_len": 24, "proj_seq_len": 24}
    conditioners["audio_input_prompt"] |= {"n_fft": 512, "win_length": 512, "hop_length": 160}
    return with_autoencoder(config, channels=6, strides=[4, 3, 2])


def wide_heads(config: Config) -> Config:
    """Heads of 128 and an odd transform: half of each head rotates; 2·4^k FFT."""
    dit = config["model"]["diffusion"]["config"]
    dit |= {"embed_dim": 256, "num_heads": 2, "depth": 3, "io_channels": 5}
    conditioners = {c["id"]: c["config"] for c in config["model"]["conditioning"]["configs"]}
    conditioners["omni_prompt"]["pad_length"] = 17
    conditioners["audio_input_prompt"] |= {"n_fft": 2048, "win_length": 2048, "hop_length": 320}
    return with_autoencoder(config, channels=5, strides=[2, 6])


def with_autoencoder(config: Config, *, channels: int, strides: list[int]) -> Config:
    vae = config["model"]["pretransform"]["config"]
    for half, latent_dim in (("encoder", 2 * channels), ("decoder", channels)):
        vae[half]["config"] |= {
            "channels": 4,
            "c_mults": [1, 2, 3][: len(strides)],
            "strides": strides,
            "latent_dim": latent_dim,
        }
    vae["downsampling_ratio"] = int(np.prod(strides))
    config["sample_size"] = 40 * int(np.prod(strides)) + 7
    config["model"]["pretransform"]["scale"] = 0.5
    return config


SIZES = {
    "narrow": (narrow_heads, {"cond_width": 40, "hidden_width": 72, "mel_frames": 51}),
    "wide": (wide_heads, {"cond_width": 24, "hidden_width": 48, "mel_frames": 40, "sync_rows": 9}),
}


@pytest.mark.parametrize("name", SIZES)
def test_another_model_exports_certifies_and_rebuilds(name: str, tmp_path: Path) -> None:
    change, widths = SIZES[name]
    raw = change(copy.deepcopy(standin_config()))
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    sizes = sizes_for(
        parse_config(raw), sync_width=20, sync_tokens=3, vocabulary=31, text_width=16, **widths
    )
    checkpoint = write_random_checkpoint(tmp_path / "model.safetensors", sizes, seed=3)
    directory = export_bundle(
        ExportOptions(
            config=tmp_path / "config.json",
            checkpoint=checkpoint,
            out=tmp_path / "bundle",
            stages=MODEL_STAGES,
            workers=2,
        )
    )
    bundle = Bundle.open(directory)
    bundle.require_certificate()
    rebuilt = from_bundle(bundle).state_dict()
    for key, tensor in open_checkpoint(checkpoint).model.items():
        if key.endswith("empty_audio_feat"):
            continue  # stored by the original, never used, in no graph
        if key.endswith(("weight_g", "weight_v")):
            continue  # multiplied out; the certificate shows that the product is the same
        assert torch.equal(rebuilt[key], tensor.float32()), key
    with Session(directory) as session:
        states = np.random.RandomState(0).standard_normal((5, sizes.conditioners.hidden_width))
        given = Conditioning.from_arrays(hidden=states)
        latents = session.sample([given, given], seed=1, plan="ab3-3")
        clip = session.decode(latents)
    dims = bundle.manifest.dims
    assert latents.shape == (2, dims.latent_channels, dims.latent_frames)
    assert clip.shape == (2, 2, dims.clip_samples)
