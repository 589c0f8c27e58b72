"""Checkpoints of seeded random weights in the official format, for trying and timing things.

Written tensor by tensor, so a full-size one (12 GB) needs little memory. The same seed and shapes
give the same file everywhere: every tensor has a generator of its own, seeded by its name.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from omni_rt.errors import ExportError
from omni_rt.export.checkpoint import THINKER_MARK, THINKER_PREFIX, parameters_on_meta
from omni_rt.export.config import ModelConfig, read_config
from omni_rt.export.reference.conditioners import ConditionerSizes
from omni_rt.export.reference.dit import DitSizes, RotaryAngles
from omni_rt.export.reference.model import ModelSizes, parameter_shapes
from omni_rt.export.reference.thinker import Thinker, ThinkerSizes

_SAFETENSORS_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}

Shapes = Mapping[str, tuple[int, ...]]


def sizes_for(
    config: ModelConfig,
    *,
    cond_width: int = 768,
    hidden_width: int = 2048,
    sync_width: int = 768,
    sync_rows: int = 240,
    sync_tokens: int = 128,
    vocabulary: int = 2546,
    text_width: int = 512,
    text_blocks: int = 4,
    mel_frames: int = 1723,
) -> ModelSizes:
    """A configuration with the sizes that only tensors tell; the defaults are the official ones."""
    return ModelSizes(
        config=config,
        dit=DitSizes(
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            latent_channels=config.latent_channels,
            cond_width=cond_width,
        ),
        conditioners=ConditionerSizes(
            cond_width=cond_width,
            hidden_width=hidden_width,
            context_tokens=config.context_tokens,
            sync_width=sync_width,
            sync_rows=sync_rows,
            sync_tokens=sync_tokens,
            vocabulary=vocabulary,
            text_width=text_width,
            text_blocks=text_blocks,
            transcript_ids=config.transcript_ids,
            transcript_tokens=config.transcript_tokens,
            mel_bands=config.mel_bands,
            mel_frames=mel_frames,
            mel_tokens=config.mel_tokens,
            n_fft=config.n_fft,
            hop_samples=config.hop_samples,
            mel_rate_hz=config.mel_rate_hz,
        ),
    )


def thinker_shapes(sizes: ThinkerSizes) -> dict[str, tuple[int, ...]]:
    """The thinker's text tensors under their names in an official checkpoint."""
    with parameters_on_meta():
        whole = Thinker(sizes, kept=sizes.layers)
    shapes = {name: tuple(value.shape) for name, value in whole.state_dict().items()}
    shapes["model.norm.weight"] = (sizes.width,)
    shapes["lm_head.weight"] = (sizes.vocabulary, sizes.width)
    return {THINKER_PREFIX + THINKER_MARK + name: shape for name, shape in shapes.items()}


def write_random_checkpoint(
    path: Path,
    sizes: ModelSizes,
    *,
    thinker: ThinkerSizes | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a `.safetensors` of random weights; the thinker's are bf16, as officially."""
    shapes: dict[str, tuple[int, ...]] = parameter_shapes(sizes)
    types = dict.fromkeys(shapes, dtype)
    if thinker is not None:
        added = thinker_shapes(thinker)
        shapes |= added
        types |= dict.fromkeys(added, torch.bfloat16)
    draft = path.with_name(f".{path.name}.partial")
    try:
        with draft.open("wb") as file:
            file.write(_header(shapes, types))
            for name, shape in shapes.items():
                value = _random(name, shape, seed=seed, sizes=sizes).to(types[name])
                value.contiguous().view(torch.uint8).numpy().tofile(file)
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _header(shapes: Shapes, types: Mapping[str, torch.dtype]) -> bytes:
    entries, offset = {}, 0
    for name, shape in shapes.items():
        length = math.prod(shape) * types[name].itemsize
        entries[name] = {
            "dtype": _SAFETENSORS_TYPES[types[name]],
            "shape": list(shape),
            "data_offsets": [offset, offset + length],
        }
        offset += length
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _random(name: str, shape: tuple[int, ...], *, seed: int, sizes: ModelSizes) -> Tensor:
    """Values of a plausible size for a parameter of this name."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "inv_freq":
        return RotaryAngles(sizes.dit.rotary_width).inv_freq
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    noise = torch.randn(shape, generator=generator)
    if leaf == "beta" and "transformer" in name:
        return torch.zeros(shape)
    if leaf == "weight_g" or (leaf == "gamma" and "grn" not in name):
        return 1 + 0.1 * noise
    if leaf == "weight" and len(shape) == 1:  # a norm's scale
        return 1 + 0.1 * noise
    if len(shape) == 1 or leaf in ("alpha", "beta", "gamma"):
        return 0.1 * noise
    if name.endswith("timestep_features.weight") or leaf.startswith("empty_"):
        return noise
    return noise / math.prod(shape[1:]) ** 0.5


def random_files(
    config_path: Path, out: Path, *, depth: int | None, bf16: bool, seed: int
) -> tuple[Path, Path]:
    """A random checkpoint for a configuration file and the configuration that fits it.

    Raises ExportError if the configuration is wrong or `out` cannot be written.
    """
    config, raw = read_config(config_path)
    if out.suffix != ".safetensors" or not out.parent.is_dir() or out.exists():
        raise ExportError(f"cannot write {out}: give a new .safetensors file in a folder")
    if depth is not None:
        raw["model"]["diffusion"]["config"]["depth"] = depth
        config = replace(config, depth=depth)
    dtype = torch.bfloat16 if bf16 else torch.float32
    write_random_checkpoint(out, sizes_for(config), seed=seed, dtype=dtype)
    fitting = out.with_suffix(".json")
    fitting.write_text(json.dumps(raw, indent=1), encoding="utf-8")
    return out, fitting
