"""What is asked of a distillation, checked before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from omni_rt.calibration.inputs import MOST_PER_TASK
from omni_rt.errors import ExportError
from omni_rt.plans import MAX_STEPS, uniform_grid
from omni_rt.tasks import EDITING, GENERATION

Optimiser = Literal["adamw", "adamw8bit"]
OPTIMISERS: tuple[Optimiser, ...] = ("adamw", "adamw8bit")

LORA_RANK = 64
_FULL_RATE, _LORA_RATE = 1e-5, 1e-4
_MOST_STEPS = 64
_MOST_SHARDS = 100_000  # files of one folder; their names have five digits
_MOST_ROWS = 1 << 16  # of an iteration: a thousand times the usual
_TASKS = tuple(request.task for request in (*GENERATION, *EDITING))


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """What decides the teacher's trajectories."""

    steps: int = 8  # K: segments of a trajectory, and evaluations of the student
    shift: float = 1.0  # of the student's times
    teacher_steps: int = 25  # about: as many as divide into K
    cfg_scale: float | None = None  # None: what the configuration tells, or 7
    shards: int = 64
    per_task: int = 4  # prompts of each task in a shard, or more where a task has more kinds
    tasks: tuple[str, ...] = ()  # none: every task that the model can do
    captions: Path | None = None  # one a line, for T2A and T2M instead of ours
    audio: Path | None = None  # a folder of the user's sounds
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= _MOST_STEPS:
            raise ExportError(f"distill: steps must be 1 to {_MOST_STEPS}, got {self.steps}")
        if self.teacher_steps < self.steps:
            raise ExportError(
                f"distill: a teacher of {self.teacher_steps} steps has nothing to teach a student "
                f"of {self.steps}"
            )
        if self.cfg_scale is not None and not math.isfinite(self.cfg_scale):
            raise ExportError(f"distill: cfg_scale must be a finite number, got {self.cfg_scale}")
        unknown = [task for task in self.tasks if task not in _TASKS]
        if unknown:
            raise ExportError(
                f"distill: no task {', '.join(unknown)}; there are {', '.join(_TASKS)}"
            )
        if self.teacher_steps > MAX_STEPS:
            raise ExportError(
                f"distill: teacher_steps must be at most {MAX_STEPS}, got {self.teacher_steps}"
            )
        for name, most in (("shards", _MOST_SHARDS), ("per_task", MOST_PER_TASK)):
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise ExportError(f"distill: {name} must be 1 to {most}, got {value}")

    @property
    def guidance(self) -> float:
        """The teacher's; a run puts its configuration's here if none was given."""
        assert self.cfg_scale is not None
        return self.cfg_scale

    @property
    def nodes(self) -> tuple[float, ...]:
        """The student's times, K + 1 from 1 to 0."""
        return tuple(float(t) for t in uniform_grid(self.steps, shift=self.shift))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How the student is trained."""

    segment_steps: int = 10_000
    tracking_steps: int = 2_000
    warmup_steps: int = 100
    batch: int = 64  # rows of a step, over all devices
    micro_batch: int | None = None  # rows at once on a device; None: all of its share
    lora_rank: int | None = None  # None: every weight of the transformer is trained
    rate: float | None = None  # None: 1e-5, for LoRA 1e-4
    optimiser: Optimiser = "adamw"
    bf16: bool = False
    checkpointing: bool = False
    ema_decay: float = 0.999
    save_every_s: float = 300.0

    def __post_init__(self) -> None:
        for name in ("segment_steps", "batch", "micro_batch", "lora_rank", "warmup_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ExportError(f"distill: {name} must be at least 1, got {value}")
        if self.batch > _MOST_ROWS:
            raise ExportError(f"distill: batch must be at most {_MOST_ROWS}, got {self.batch}")
        if not (math.isfinite(self.peak_rate) and self.peak_rate > 0):
            raise ExportError(f"distill: rate must be a number above 0, got {self.rate}")
        if not (math.isfinite(self.save_every_s) and self.save_every_s >= 0):
            raise ExportError(f"distill: save_every must be seconds, got {self.save_every_s}")
        if not 0 <= self.ema_decay < 1:
            raise ExportError(f"distill: ema_decay must be 0 to below 1, got {self.ema_decay}")
        if self.tracking_steps < 0:
            raise ExportError(f"distill: tracking_steps must not be below 0: {self.tracking_steps}")
        if self.optimiser not in OPTIMISERS:
            raise ExportError(
                f"distill: optimiser must be one of {', '.join(OPTIMISERS)}, got {self.optimiser!r}"
            )

    @property
    def peak_rate(self) -> float:
        """The learning rate after the warm-up."""
        if self.rate is not None:
            return self.rate
        return _FULL_RATE if self.lora_rank is None else _LORA_RATE


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillOptions:
    """A whole distillation: from where, to where, how."""

    checkpoint: Path  # a folder in the form of `files.py`, or the file itself
    out: Path
    config: Path | None = None
    bundle: Path | None = None  # exported from this checkpoint: conditions the prompts
    qwen: Path | None = None
    upstream: Path | None = None
    prompts: Path | None = None
    vocabulary: Path | None = None
    synchformer: Path | None = None
    synchformer_heads: int = 12
    overwrite: bool = False  # a student that is at `out`
    trajectories: Path | None = None  # another student's cache to learn from, instead of an own
    work: Path | None = None  # the cache and the states of training; None: OUT.work
    cache: CacheOptions = CacheOptions()
    training: TrainingOptions = TrainingOptions()
