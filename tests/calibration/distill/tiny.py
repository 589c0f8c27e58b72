"""A model of a few thousand numbers, its checkpoint, pairs of made-up trajectories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omni_rt.calibration.distill.cache import Teacher
from omni_rt.calibration.distill.options import CacheOptions
from omni_rt.calibration.distill.requests import Requests, read_captions
from omni_rt.calibration.distill.shards import Pair
from omni_rt.calibration.distill.student import write_student
from omni_rt.calibration.distill.tokens import Silence, Tokens
from omni_rt.export.build import export_bundle
from omni_rt.export.checkpoint import open_checkpoint
from omni_rt.export.config import parse_config
from omni_rt.export.contract import dims_of
from omni_rt.export.random_checkpoint import sizes_for, write_random_checkpoint
from omni_rt.export.reference.dit import DiT, DitSizes
from omni_rt.export.reference.model import ModelSizes, checked_tensors, load_reference
from omni_rt.export.sources import ExportOptions
from omni_rt.export.standin import standin_config

SIZES = DitSizes(width=64, depth=2, heads=2, latent_channels=4, cond_width=16, time_features=4)
FRAMES, NODES = 6, (1.0, 0.75, 0.5, 0.25, 0.0)


def config() -> dict[str, Any]:
    """The stand-in's, with a window of eight frames at 8 kHz and narrower."""
    raw = standin_config()
    raw["sample_size"], raw["sample_rate"] = 8 * 2048, 8000
    conditioners = {c["id"]: c["config"] for c in raw["model"]["conditioning"]["configs"]}
    conditioners["audio_input_prompt"] |= {"target_sample_rate": 8000, "seq_len": 6}
    conditioners["omni_prompt"]["pad_length"] = 64
    conditioners["speech_prompt"] |= {"seq_len": 48, "proj_seq_len": 8}
    raw["model"]["diffusion"]["config"] |= {"embed_dim": 64, "depth": 2, "num_heads": 2}
    return raw


def tiny_sizes() -> ModelSizes:
    return sizes_for(
        parse_config(config()), cond_width=16, hidden_width=12, sync_width=8, sync_rows=10,
        sync_tokens=4, vocabulary=40, text_width=16, text_blocks=1, mel_frames=63, time_features=4,
    )  # fmt: skip


def write_checkpoint(folder: Path) -> Path:
    """A folder of config.json and model.safetensors."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config()))
    write_random_checkpoint(folder / "model.safetensors", tiny_sizes())
    return folder


def write_student_checkpoint(folder: Path, *, grid: Sequence[float]) -> Path:
    """A student's folder, in which every number of the teacher's transformer is moved a little."""
    teacher = write_checkpoint(folder / "teacher")
    moved = {
        name: value + 0.01 * normal(*value.shape, seed=i)
        for i, (name, value) in enumerate(teacher_of(teacher).dit.named_parameters())
    }
    checkpoint = open_checkpoint(teacher / "model.safetensors")
    return write_student(
        folder / "student", checkpoint, config(), moved, grid=tuple(grid), record={"seed": 0}
    )


def export_student(student: Path, out: Path, *stages: str) -> Path:
    """A student's bundle without a thinker."""
    return export_bundle(
        ExportOptions(
            config=student / "config.json",
            checkpoint=student / "model.safetensors",
            out=out,
            stages=("transcript", "context", "signal", "dit_step", *stages),
        )
    )


def teacher_of(folder: Path) -> Teacher:
    tensors = open_checkpoint(folder / "model.safetensors").model
    sizes, tensors = checked_tensors(parse_config(config()), tensors)
    return Teacher.of(load_reference(sizes, tensors), torch.device("cpu"))


def requests(**options: Any) -> Requests:
    given = {
        "cfg_scale": 7.0,
        "steps": 2,
        "teacher_steps": 4,
        "per_task": 1,
        "tasks": ("T2A",),
        **options,
    }
    dims = dims_of(tiny_sizes())
    asked = CacheOptions(**given)
    captions = read_captions(asked.captions)
    return Requests(dims=dims, stages=(), options=asked, captions=captions)


def session_without_thinker() -> Any:
    """All that conditioning needs of a session where no stage reads prompts."""
    manifest = SimpleNamespace(graphs={}, dims=dims_of(tiny_sizes()))
    return SimpleNamespace(bundle=SimpleNamespace(manifest=manifest))


def random_dit(*, seed: int = 0, **sizes: int) -> DiT:
    torch.manual_seed(seed)
    dit = DiT(DitSizes(**{f: getattr(SIZES, f) for f in SIZES.__dataclass_fields__} | sizes))
    torch.nn.init.normal_(dit.timestep_features.weight)
    return dit


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def silence() -> Silence:
    return Silence(speech=normal(3, 16), sync=normal(2, 16, seed=1), mel=normal(2, 16, seed=2))


def tokens(words: int, *, seed: int = 0) -> Tokens:
    return Tokens(words=normal(words, 16, seed=seed).half())


def pair(nodes: Tensor, *, seed: int = 0) -> Pair:
    """A trajectory [K + 1, C, L] with a prompt of its own."""
    return Pair(name=f"T2A/{seed}", nodes=nodes.half(), tokens=tokens(4 + seed % 3, seed=seed))


def random_pairs(count: int, *, nodes: Sequence[float] = NODES) -> list[Pair]:
    shape = (len(nodes), SIZES.latent_channels, FRAMES)
    return [pair(normal(*shape, seed=i), seed=i) for i in range(count)]


def arrays(pairs: Sequence[Pair]) -> list[np.ndarray]:
    return [p.nodes.numpy() for p in pairs] + [p.tokens.words.numpy() for p in pairs]
