"""The miniature's checkpoint, into which each part is put when it is trained.

One folder of files in the official format: model.safetensors (bf16), synchformer.safetensors, the
configuration, the thinker's configuration and tokenizer, the prompts, the characters.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from omni_rt.errors import ExportError
from omni_rt.export.checkpoint import safe_open_or_refuse
from omni_rt.export.config import read_config
from omni_rt.export.miniature.config import miniature_config
from omni_rt.export.miniature.data.speech import TRANSCRIPT_CHARACTERS
from omni_rt.export.miniature.model import SYNCHFORMER_HEADS
from omni_rt.export.miniature.text import TEMPLATES, Words, thinker_config, write_tokenizer
from omni_rt.export.reference.dit import RotaryAngles
from omni_rt.export.sources import ExportOptions
from omni_rt.export.student import student_of
from omni_rt.whole_file import draft_of

FOLDER = Path("miniature/checkpoint")  # in the repository; a wheel has the bundle alone
MODEL_FILE, SYNCHFORMER_FILE = "model.safetensors", "synchformer.safetensors"
CONFIG_FILE, PROMPTS_FILE, CHARACTERS_FILE = "config.json", "prompts.json", "vocabulary.txt"
THINKER_FOLDER, TOKENIZER_FILE = "qwen", "tokenizer.json"
LICENCE = "Apache-2.0 (the miniature, trained by omni_rt on procedural sound)"

Facts = Mapping[str, str]


def write_texts(folder: Path) -> None:
    """Write all that is not trained."""
    qwen = folder / THINKER_FOLDER
    qwen.mkdir(parents=True, exist_ok=True)
    tokens = write_tokenizer(qwen / TOKENIZER_FILE)
    _write_json(qwen / CONFIG_FILE, thinker_config(tokens))
    _write_json(folder / CONFIG_FILE, miniature_config())
    _write_json(folder / PROMPTS_FILE, TEMPLATES)
    characters = "\n".join(TRANSCRIPT_CHARACTERS) + "\n"
    (folder / CHARACTERS_FILE).write_text(characters, encoding="utf-8")


def words_of(folder: Path) -> Words:
    """What a checkpoint's tokenizer says. Raises ExportError if there is none."""
    path = folder / THINKER_FOLDER / TOKENIZER_FILE
    if not path.is_file():
        raise ExportError(f"no tokenizer at {path}: train the thinker first")
    return Words.read(path)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def copy_files(source: Path, target: Path) -> None:
    """Put every file of a checkpoint's folder into another, each whole or not at all."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(place) as draft:
            shutil.copyfile(path, draft)


def export_options(
    folder: Path, out: Path, *, student: Path | None = None, overwrite: bool = False
) -> ExportOptions:
    """How the packaged bundle is exported from the checkpoint, or one of its students' is.

    student: its folder, with a model and a configuration; the rest is the teacher's. Raises
    ExportError if it is none.
    """
    own = folder if student is None else student
    return ExportOptions(
        config=own / CONFIG_FILE,
        checkpoint=own / MODEL_FILE,
        out=out,
        qwen=folder / THINKER_FOLDER,
        prompts=folder / PROMPTS_FILE,
        vocabulary=folder / CHARACTERS_FILE,
        synchformer=folder / SYNCHFORMER_FILE,
        synchformer_heads=SYNCHFORMER_HEADS,
        name=_name(own, is_student=student is not None),
        licence=LICENCE,
        overwrite=overwrite,
        workers=min(2, os.cpu_count() or 1),
        weights="half",
    )


def _name(folder: Path, *, is_student: bool) -> str:
    if not is_student:
        return "miniature"
    spec = student_of(read_config(folder / CONFIG_FILE)[1])
    if spec is None:
        raise ExportError(f"{folder} holds no student: its configuration has no plan")
    return f"miniature-{spec.plan().name}"


def put(
    module: nn.Module,
    prefix: str,
    path: Path,
    *,
    part: str,
    facts: Facts,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Write a trained part beside the others in its file, in place of what it was before.

    `facts`, how it was made, go into the file's header as `part.name`. `shapes`: the official ones,
    where the module has others (a patch embedding is stored as a convolution).
    """
    tensors, header = _read(path) if path.is_file() else ({}, {})
    own = {
        prefix + name: _stored(module, name, value).reshape((shapes or {}).get(name, value.shape))
        for name, value in _named(module)
    }
    tensors = {name: value for name, value in tensors.items() if name not in own} | own
    header = {key: value for key, value in header.items() if not key.startswith(f"{part}.")}
    header |= {f"{part}.{key}": value for key, value in facts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(path) as draft:
        save_file(dict(sorted(tensors.items())), draft, metadata=header)


def facts_of(path: Path, part: str) -> dict[str, str]:
    """How a part in a file was made, as `put` was told."""
    _, header = _read(path)
    start = f"{part}."
    return {key.removeprefix(start): v for key, v in header.items() if key.startswith(start)}


def get(module: nn.Module, prefix: str, path: Path) -> None:
    """Fill a module of the same configuration from a file, and freeze it.

    Raises ExportError if the part is not there yet or is of another configuration.
    """
    if not path.is_file():
        raise ExportError(f"no checkpoint at {path}: train its parts first")
    tensors, _ = _read(path)
    found = {name: tensors.get(prefix + name) for name, _ in _named(module)}
    missing = [prefix + name for name, value in found.items() if value is None]
    if missing:
        raise ExportError(f"{path} lacks {missing[0]} and {len(missing) - 1} more: not trained yet")
    own = module.state_dict()
    try:
        module.load_state_dict(
            {k: v.float().reshape(own[k].shape) for k, v in found.items() if v is not None}
        )
    except RuntimeError as error:
        raise ExportError(f"{path} belongs to another configuration") from error
    module.eval().requires_grad_(False)


def _named(module: nn.Module) -> list[tuple[str, Tensor]]:
    return list(module.state_dict().items())


def _stored(module: nn.Module, name: str, value: Tensor) -> Tensor:
    """bf16, but for the tables of angles, which are not learnt."""
    parent, _, _ = name.rpartition(".")
    exact = isinstance(module.get_submodule(parent), RotaryAngles)
    return value.detach().cpu().to(torch.float32 if exact else torch.bfloat16).contiguous()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open_or_refuse(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, dict(file.metadata() or {})
