"""Trained parts of the miniature as files: official names, bf16, one `.safetensors` per part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from omni_rt.errors import ExportError
from omni_rt.export.reference.autoencoder import Oobleck
from omni_rt.export.reference.model import AUTOENCODER

FOLDER = Path(__file__).parent / "trained"
AUTOENCODER_FILE = "autoencoder.safetensors"


def save_autoencoder(vae: Oobleck, folder: Path, facts: Mapping[str, str]) -> Path:
    """Write the autoencoder; `facts` (how it was made) go into the file's header."""
    tensors = {
        AUTOENCODER + name: value.to(torch.bfloat16).contiguous()
        for name, value in vae.state_dict().items()
    }
    path = folder / AUTOENCODER_FILE
    folder.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    save_file(tensors, draft, metadata=dict(facts))
    draft.replace(path)
    return path


def load_autoencoder(vae: Oobleck, folder: Path = FOLDER) -> Oobleck:
    """Fill an autoencoder of the same configuration. Raises ExportError if the file is another."""
    path = folder / AUTOENCODER_FILE
    if not path.is_file():
        raise ExportError(f"no trained autoencoder at {path}: train it first")
    own: dict[str, Tensor] = {
        name.removeprefix(AUTOENCODER): value.float() for name, value in load_file(path).items()
    }
    try:
        vae.load_state_dict(own)
    except RuntimeError as error:
        raise ExportError(f"{path} belongs to another configuration") from error
    return vae.eval().requires_grad_(False)
