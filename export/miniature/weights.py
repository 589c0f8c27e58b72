"""Trained parts of the miniature as files: official names, bf16, one `.safetensors` per part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from omni_rt.errors import ExportError
from omni_rt.export.contract import THINKER
from omni_rt.export.miniature.thinker import TrainableThinker
from omni_rt.export.reference.autoencoder import Oobleck
from omni_rt.export.reference.model import AUTOENCODER

FOLDER = Path(__file__).parent / "trained"
AUTOENCODER_FILE, THINKER_FILE = "autoencoder.safetensors", "thinker.safetensors"

_Module = TypeVar("_Module", bound=nn.Module)


def save_autoencoder(vae: Oobleck, folder: Path, facts: Mapping[str, str]) -> Path:
    """Write the autoencoder; `facts` (how it was made) go into the file's header."""
    return _save(vae, AUTOENCODER, folder / AUTOENCODER_FILE, facts)


def load_autoencoder(vae: Oobleck, folder: Path = FOLDER) -> Oobleck:
    """Fill an autoencoder of the same configuration. Raises ExportError if the file is another."""
    return _load(vae, AUTOENCODER, folder / AUTOENCODER_FILE)


def save_thinker(thinker: TrainableThinker, folder: Path, facts: Mapping[str, str]) -> Path:
    """Write the thinker as `save_autoencoder` does the autoencoder."""
    return _save(thinker, THINKER, folder / THINKER_FILE, facts)


def load_thinker(thinker: TrainableThinker, folder: Path = FOLDER) -> TrainableThinker:
    """Fill a thinker of the same configuration. Raises ExportError if the file is another."""
    return _load(thinker, THINKER, folder / THINKER_FILE)


def _save(module: nn.Module, prefix: str, path: Path, facts: Mapping[str, str]) -> Path:
    tensors = {
        prefix + name: value.to(torch.bfloat16).contiguous()
        for name, value in module.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    save_file(tensors, draft, metadata=dict(facts))
    draft.replace(path)
    return path


def _load(module: _Module, prefix: str, path: Path) -> _Module:
    if not path.is_file():
        raise ExportError(f"no trained part at {path}: train it first")
    own = {name.removeprefix(prefix): value.float() for name, value in load_file(path).items()}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise ExportError(f"{path} belongs to another configuration") from error
    return module.eval().requires_grad_(False)
