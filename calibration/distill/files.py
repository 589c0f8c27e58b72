"""Which files a checkpoint's folder holds, by their usual names.

model.safetensors or model.ckpt, config.json; and to condition prompts qwen/, prompts.json,
vocabulary.txt, synchformer.safetensors or synchformer_state_dict.pth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omni_rt.calibration.distill.options import DistillOptions
from omni_rt.errors import ExportError
from omni_rt.export.checkpoint import open_checkpoint
from omni_rt.export.config import read_config
from omni_rt.export.random_checkpoint import sizes_for
from omni_rt.export.reference.model import ModelSizes, checked_tensors
from omni_rt.export.sources import ExportOptions

MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"
_MODELS = (MODEL_FILE, "model.ckpt")
_SYNCHFORMERS = ("synchformer.safetensors", "synchformer_state_dict.pth")


def source_files(options: DistillOptions, *, out: Path) -> ExportOptions:
    """How the checkpoint would be exported to `out`; what an option names goes before the folder's.

    Raises ExportError if the model or its configuration is not there.
    """
    given = options.checkpoint
    folder = _folder_of(given)
    return ExportOptions(
        config=options.config or _needed(folder, (CONFIG_FILE,), "--config FILE"),
        checkpoint=given if folder is None else _needed(folder, _MODELS, "--checkpoint FILE"),
        out=out,
        qwen=options.qwen or _found(folder, ("qwen",)),
        upstream=options.upstream,
        prompts=options.prompts or _found(folder, ("prompts.json",)),
        vocabulary=options.vocabulary or _found(folder, ("vocabulary.txt",)),
        synchformer=options.synchformer or _found(folder, _SYNCHFORMERS),
        synchformer_heads=options.synchformer_heads,
    )


def _folder_of(checkpoint: Path) -> Path | None:
    """The checkpoint if it is a folder, None for a file. Raises ExportError if it is neither."""
    if not checkpoint.exists():
        raise ExportError(f"distill: no checkpoint at {checkpoint}")
    return checkpoint if checkpoint.is_dir() else None


def _found(folder: Path | None, names: Sequence[str]) -> Path | None:
    if folder is None:
        return None
    return next((folder / name for name in names if (folder / name).exists()), None)


def _needed(folder: Path | None, names: Sequence[str], option: str) -> Path:
    found = _found(folder, names)
    if found is None:
        where = "beside the checkpoint's file" if folder is None else f"in {folder}"
        raise ExportError(f"distill: no {' or '.join(names)} {where}: give {option}")
    return found


def configured_sizes(checkpoint: Path | None, config: Path | None) -> ModelSizes:
    """Sizes from a checkpoint's tensors; without one from the configuration, the rest official.

    Raises ExportError if neither is given, or one cannot be read.
    """
    if checkpoint is None:
        if config is None:
            raise ExportError("distill: give --config FILE, or --checkpoint")
        return sizes_for(read_config(config)[0])
    folder = _folder_of(checkpoint)
    path = config or _needed(folder, (CONFIG_FILE,), "--config FILE")
    model = checkpoint if folder is None else _needed(folder, _MODELS, "--checkpoint FILE")
    return checked_tensors(read_config(path)[0], open_checkpoint(model).model)[0]
