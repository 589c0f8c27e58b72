"""Checkpoints of seeded random weights in the official format, for trying and timing things.

Written tensor by tensor, so a full-size one (12 GB) needs little memory. The same seed and shapes
give the same file everywhere: every tensor has a generator of its own, seeded by its name.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from omni_rt.errors import ExportError
from omni_rt.export.config import ModelConfig, read_config
from omni_rt.export.contract import THINKER
from omni_rt.export.reference.conditioners import ConditionerSizes
from omni_rt.export.reference.dit import DitSizes, RotaryAngles
from omni_rt.export.reference.model import ModelSizes, parameter_shapes
from omni_rt.export.reference.synchformer import SynchformerSizes, synchformer_shapes
from omni_rt.export.reference.thinker_config import ThinkerSizes
from omni_rt.export.reference.thinker_files import thinker_shapes

_SAFETENSORS_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}

# Outlier channels: so many of a transformer block's norms, and how much larger their scale is. A
# choice; the specification's outliers have no published size.
_OUTLIERS, _LARGER = 1 / 128, 16.0
_BLOCK_NORM = re.compile(r"\.layers\.\d+\.(pre|cross_attend|ff)_norm\.gamma$")

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
    time_features: int = 128,
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
            time_features=time_features,
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


def write_random_checkpoint(
    path: Path,
    sizes: ModelSizes,
    *,
    thinker: ThinkerSizes | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    outliers: bool = False,
) -> Path:
    """Write a `.safetensors` of random weights; the thinker's are bf16, as officially."""
    shapes: dict[str, tuple[int, ...]] = parameter_shapes(sizes)
    types = dict.fromkeys(shapes, dtype)
    if thinker is not None:
        added = {THINKER + name: shape for name, shape in thinker_shapes(thinker).items()}
        shapes |= added
        types |= dict.fromkeys(added, torch.bfloat16)
    rotary_width = sizes.dit.rotary_width
    write_random_tensors(
        path, shapes, types, seed=seed, rotary_width=rotary_width, outliers=outliers
    )
    return path


def write_random_tensors(
    path: Path,
    shapes: Shapes,
    types: Mapping[str, torch.dtype],
    *,
    seed: int,
    rotary_width: int = 0,
    outliers: bool = False,
) -> None:
    """Write a `.safetensors` of random tensors of these names and shapes, one at a time."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        with draft.open("wb") as file:
            file.write(_header(shapes, types))
            for name, shape in shapes.items():
                value = random_tensor(
                    name, shape, seed=seed, rotary_width=rotary_width, outliers=outliers
                ).to(types[name])
                value.contiguous().view(torch.uint8).numpy().tofile(file)
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)


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


def random_tensor(
    name: str, shape: tuple[int, ...], *, seed: int, rotary_width: int, outliers: bool = False
) -> Tensor:
    """Values of a plausible size for a parameter of this name.

    With `outliers`, some channels of what blocks read are much larger than the others, as trained
    transformers' are; all other values are the same.
    """
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "inv_freq":
        return RotaryAngles(rotary_width).inv_freq
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    noise = torch.randn(shape, generator=generator)
    if leaf == "beta" and "transformer" in name:
        return torch.zeros(shape)
    if leaf == "weight_g" or (leaf == "gamma" and "grn" not in name):
        scale = 1 + 0.1 * noise
        if outliers and _BLOCK_NORM.search(name):
            count = math.ceil(_OUTLIERS * len(scale))
            scale[torch.randperm(len(scale), generator=generator)[:count]] *= _LARGER
        return scale
    if leaf == "weight" and len(shape) == 1:  # a norm's scale
        return 1 + 0.1 * noise
    if len(shape) == 1 or leaf in ("alpha", "beta", "gamma"):
        return 0.1 * noise
    if name.endswith("timestep_features.weight") or leaf.startswith("empty_"):
        return noise
    return noise / math.prod(shape[1:]) ** 0.5


def random_files(
    config_path: Path,
    out: Path,
    *,
    depth: int | None,
    bf16: bool,
    seed: int,
    qwen: Path | None = None,
    thinker_layers: int | None = None,
    outliers: bool = False,
) -> list[Path]:
    """A random checkpoint for a configuration file and the files that fit it.

    With `qwen`, a Hugging Face folder, the thinker is in it too, and a folder with its
    configuration and tokenizer beside it. Raises ExportError if a configuration is wrong or `out`
    cannot be written.
    """
    config, raw = read_config(config_path)
    if out.suffix != ".safetensors" or not out.parent.is_dir() or out.exists():
        raise ExportError(f"cannot write {out}: give a new .safetensors file in a folder")
    if depth is not None:
        raw["model"]["diffusion"]["config"]["depth"] = depth
        config = replace(config, depth=depth)
    made = [out, out.with_suffix(".json")]
    thinker = None
    if qwen is not None:
        folder = out.with_suffix(".qwen")
        thinker = _fitting_thinker(qwen, folder, layers=thinker_layers)
        made.append(folder)
    dtype = torch.bfloat16 if bf16 else torch.float32
    write_random_checkpoint(
        out, sizes_for(config), thinker=thinker, seed=seed, dtype=dtype, outliers=outliers
    )
    made[1].write_text(json.dumps(raw, indent=1), encoding="utf-8")
    return made


def _fitting_thinker(qwen: Path, folder: Path, *, layers: int | None) -> ThinkerSizes:
    """The sizes of a thinker of so many layers; its configuration and tokenizer in `folder`."""
    try:
        config = json.loads((qwen / "config.json").read_text(encoding="utf-8"))
        text = config.get("thinker_config", config)["text_config"]
        text["num_hidden_layers"] = layers or text["num_hidden_layers"]
        sizes = ThinkerSizes.from_config(config)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        shutil.copyfile(qwen / "tokenizer.json", folder / "tokenizer.json")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"thinker: cannot use {qwen} for {folder}: {error}") from error
    return sizes


def write_random_synchformer(path: Path, sizes: SynchformerSizes, *, seed: int) -> Path:
    """Write a Synchformer of random weights as a `.safetensors`."""
    shapes = synchformer_shapes(sizes)
    write_random_tensors(path, shapes, dict.fromkeys(shapes, torch.float32), seed=seed)
    return path
