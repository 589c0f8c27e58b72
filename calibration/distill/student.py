"""The student as a checkpoint in the official format: a folder with its tensors and configuration.

The configuration carries the plan, so `omni-rt export` takes it like any other; the thinker's
files, prompts and vocabulary are the teacher's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni_rt.calibration.distill.files import CONFIG_FILE, MODEL_FILE
from omni_rt.calibration.distill.saving import save_tensors
from omni_rt.export.checkpoint import Checkpoint
from omni_rt.export.contract import THINKER
from omni_rt.export.pack import new_directory
from omni_rt.export.reference.model import DIT
from omni_rt.export.student import KEY, StudentSpec
from omni_rt.strict_json import to_json

_RECORD = "distilled"  # of the configuration: how, for whoever reads it
_MOST_BYTES = 4  # of a number


def write_student(
    out: Path,
    checkpoint: Checkpoint,
    raw_config: Mapping[str, Any],
    trained: Mapping[str, Tensor],
    *,
    grid: tuple[float, ...],
    record: Mapping[str, object],
    overwrite: bool = False,
) -> Path:
    """Write the folder `out`, whole or not at all.

    trained: the transformer's new weights by their names in it; every other tensor is the
    teacher's. Each is stored in its type in the teacher's file. Raises ExportError if `out` is
    there (unless `overwrite`, and then only in place of a checkpoint) or the disk is full.
    """
    tensors = {**checkpoint.model, **{THINKER + k: v for k, v in checkpoint.thinker.items()}}
    needed = sum(_MOST_BYTES * math.prod(tensor.shape) for tensor in tensors.values())
    config = {
        **raw_config,
        KEY: to_json(StudentSpec.on(grid)),
        _RECORD: dict(record),
    }
    with new_directory(out, needed_bytes=needed, overwrite=overwrite, holds=CONFIG_FILE) as draft:
        text = json.dumps(config, indent=1) + "\n"
        (draft / CONFIG_FILE).write_text(text, encoding="utf-8")
        whole = {}
        for name, tensor in tensors.items():
            stored = tensor.load()
            new = trained.get(name.removeprefix(DIT)) if name.startswith(DIT) else None
            whole[name] = stored if new is None else _like(new, stored)
        save_tensors(draft / MODEL_FILE, whole)
    return out


def _like(new: Tensor, stored: Tensor) -> Tensor:
    value = new.detach().to("cpu", stored.dtype).reshape(stored.shape).contiguous()
    assert torch.isfinite(value).all()  # training stops at what is not
    return value
