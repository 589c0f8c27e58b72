"""A small stand-in for the official files: random weights, everything else real.

It makes what a user would have (checkpoint, configuration, a thinker's folder, an upstream
checkout with prompts and vocabulary), so that every command runs as it will on the real model.
Its sound is noise: it proves the pipe, not the model.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omni_rt.export.config import parse_config
from omni_rt.export.pack import new_directory
from omni_rt.export.random_checkpoint import (
    sizes_for,
    write_random_checkpoint,
    write_random_synchformer,
)
from omni_rt.export.reference.synchformer import SynchformerSizes
from omni_rt.export.reference.thinker_config import MEDIA_TOKENS, ThinkerSizes

LICENCE = "Apache-2.0 (random weights made by omni_rt)"

_WIDTH, _HIDDEN, _COND, _SYNC = 128, 64, 64, 32
_ROOM_BYTES = 16 << 20
_STRIDES = [8, 16, 16]

SYNCHFORMER_HEADS = 2
_SYNCHFORMER = SynchformerSizes(
    width=_SYNC,
    heads=SYNCHFORMER_HEADS,
    depth=2,
    inner=64,
    tubelets=8,
    patches=196,
    patch_px=16,
    tubelet_frames=2,
)

_SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|vision_bos|>",
    "<|vision_eos|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
]

_PROMPTS = {
    "SYSTEM_T2A": "Make the sound that is described.",
    "SYSTEM_T2M": "Make the music that is described.",
    "SYSTEM_TTS": "Speak the transcript.",
    "SYSTEM_V2A": "Make the sound of what is seen.",
    "SYSTEM_V2M": "Make music for what is seen.",
    "SYSTEM_EDITING": "Edit the recording as told.",
    "SYSTEM_UNDERSTANDING": "Answer questions about what is heard and seen.",
    "EDITING_ADD": "Add: {desc}.",
    "EDITING_REMOVE": "Remove: {desc}.",
    "EDITING_EXTRACT": "Keep only: {desc}.",
    "EDITING_STYLE": "Turn {source} into {target}.",
}


def _oobleck(latent_dim: int, **channels: int) -> dict[str, Any]:
    sizes = {"channels": 8, "c_mults": [1, 2, 4], "strides": _STRIDES, "latent_dim": latent_dim}
    return {"type": "oobleck", "config": {**channels, **sizes, "use_snake": True}}


def _conditioners() -> list[dict[str, Any]]:
    mel = {
        "n_fft": 1024,
        "hop_length": 256,
        "win_length": 1024,
        "n_mel_channels": 100,
        "target_sample_rate": 44100,
        "seq_len": 24,
    }
    return [
        {
            "id": "omni_prompt",
            "type": "qwen_omni",
            "config": {"pad_length": 256, "layer_idx": -2},
        },
        {"id": "sync_feature", "type": "sync_feature", "config": {"sync_seq_dim": 240}},
        {
            "id": "speech_prompt",
            "type": "tts-f5",
            "config": {"seq_len": 320, "proj_seq_len": 32},
        },
        {"id": "audio_input_prompt", "type": "mel_spec", "config": mel},
    ]


def standin_config() -> dict[str, Any]:
    """The stand-in's configuration: official time scale and form, small widths."""
    decoder = _oobleck(16, out_channels=2)
    decoder["config"]["final_tanh"] = False
    autoencoder = {
        "encoder": _oobleck(32, in_channels=2),
        "decoder": decoder,
        "bottleneck": {"type": "vae"},
        "latent_dim": 16,
        "downsampling_ratio": 2048,
        "io_channels": 2,
    }
    diffusion = {
        "high_level_cond_ids": ["omni_prompt", "speech_prompt"],
        "low_level_cond_ids": ["sync_feature", "audio_input_prompt"],
        "type": "dit",
        "diffusion_objective": "rectified_flow",
        "config": {
            "io_channels": 16,
            "embed_dim": _WIDTH,
            "depth": 2,
            "num_heads": 4,
            "cond_token_dim": _COND,
            "global_cond_dim": _COND,
            "project_cond_tokens": True,
            "transformer_type": "continuous_transformer",
        },
    }
    model = {
        "pretransform": {"type": "autoencoder", "iterate_batch": True, "config": autoencoder},
        "conditioning": {"configs": _conditioners(), "cond_dim": _COND},
        "diffusion": diffusion,
        "io_channels": 16,
    }
    return {
        "model_type": "diffusion_cond",
        "sample_size": 485100,
        "sample_rate": 44100,
        "video_fps": 5,
        "audio_channels": 2,
        "model": model,
    }


def _thinker_config(tokens: Mapping[str, int]) -> dict[str, Any]:
    text = {
        "vocab_size": len(tokens),
        "hidden_size": _HIDDEN,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default", "mrope_section": [2, 3, 3]},
    }
    audio = {
        "num_mel_bins": 128,
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "n_window": 100,
        "output_dim": _HIDDEN,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "out_hidden_size": _HIDDEN,
    }
    ids = {key: tokens[token] for key, token in MEDIA_TOKENS.values()}
    thinker = {"text_config": text, "audio_config": audio, "vision_config": vision, **ids}
    return {"model_type": "qwen2_5_omni", "thinker_config": thinker}


def _write_tokenizer(path: Path) -> dict[str, int]:
    """A byte-level tokenizer without merges; returns its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_SPECIAL_TOKENS)
    tokenizer.save(str(path))
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary


def _vocabulary() -> list[str]:
    return [" ", *(c for c in string.printable if c.isprintable() and c != " ")]


def write_standin(folder: Path, *, seed: int = 0) -> Path:
    """Write the stand-in's files into a new folder, whole or not at all; returns it.

    model.safetensors, config.json, synchformer.safetensors, qwen/ and upstream/, laid out as the
    official ones are.
    Raises ExportError if the folder is there already or cannot be written.
    """
    with new_directory(folder, needed_bytes=_ROOM_BYTES, overwrite=False) as draft:
        _write_files(draft, seed)
    return folder


def _write_files(folder: Path, seed: int) -> None:
    upstream = folder / "upstream" / "audio_omni"
    (upstream / "data").mkdir(parents=True)
    (folder / "qwen").mkdir()
    constants = [f"{name} = {text!r}" for name, text in _PROMPTS.items()]
    (upstream / "prompts.py").write_text("\n".join(constants) + "\n", encoding="utf-8")
    characters = _vocabulary()
    (upstream / "data" / "vocab.txt").write_text("\n".join(characters) + "\n", encoding="utf-8")
    config = standin_config()
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    thinker = _thinker_config(_write_tokenizer(folder / "qwen" / "tokenizer.json"))
    (folder / "qwen" / "config.json").write_text(json.dumps(thinker, indent=1), encoding="utf-8")
    sizes = sizes_for(
        parse_config(config),
        cond_width=_COND,
        hidden_width=_HIDDEN,
        sync_width=_SYNC,
        sync_tokens=16,
        vocabulary=len(characters) + 1,
        text_width=48,
        text_blocks=2,
    )
    write_random_checkpoint(
        folder / "model.safetensors",
        sizes,
        thinker=ThinkerSizes.from_config(thinker),
        seed=seed,
    )
    write_random_synchformer(folder / "synchformer.safetensors", _SYNCHFORMER, seed=seed)
