"""The whole of it: cache, two stages of training, the student's checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from omni_rt.calibration.distill.binding import bind
from omni_rt.calibration.distill.cache import Cache, Teacher, cache_facts, fill
from omni_rt.calibration.distill.devices import Devices, these_devices
from omni_rt.calibration.distill.encoder import encoder_bundle, stages_of
from omni_rt.calibration.distill.files import CONFIG_FILE, source_files
from omni_rt.calibration.distill.lighten import lighten
from omni_rt.calibration.distill.lora import merged
from omni_rt.calibration.distill.objective import Lessons, velocity_of
from omni_rt.calibration.distill.options import DistillOptions, TrainingOptions
from omni_rt.calibration.distill.requests import Requests, read_captions
from omni_rt.calibration.distill.shards import Pair, Shard, pairs_of
from omni_rt.calibration.distill.stages import train
from omni_rt.calibration.distill.student import write_student
from omni_rt.calibration.distill.thinned import thinned
from omni_rt.calibration.distill.trained import trained_parameters
from omni_rt.calibration.distill.training import optimisers
from omni_rt.errors import ExportError
from omni_rt.export.checkpoint import Checkpoint, LazyTensor, open_checkpoint
from omni_rt.export.config import read_config
from omni_rt.export.guidance import guidance_of
from omni_rt.export.pack import check_target
from omni_rt.export.reference.dit import DiT
from omni_rt.export.reference.model import DIT, AudioOmni, checked_tensors, load_reference
from omni_rt.export.sources import ExportOptions
from omni_rt.export.student import student_of
from omni_rt.session import Session
from omni_rt.uncertified import unsaid

Tell = Callable[[str], None]

_MEASURED = 16  # pairs of each kind whose error is measured at the end
_NO_MATTER = ("save_every_s", "micro_batch")  # of a run that is gone on with


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """What came of it: mean relative L2 distance from the teacher's latents at equal noise."""

    out: Path
    trained_error: float  # on pairs that were trained on
    held_out_error: float | None  # on those of the last shard, if there are several


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The teacher's checkpoint, checked."""

    files: ExportOptions
    checkpoint: Checkpoint
    sha256: str
    raw_config: Mapping[str, Any]
    tensors: Mapping[str, LazyTensor]
    model: AudioOmni


def distill(options: DistillOptions, *, tell: Tell) -> Distilled | None:
    """Make the student's checkpoint `options.out`; go on with what a run before has left.

    Of several processes the first writes it and says what came of it; None in the others.

    Raises ExportError, before anything long begins, for what is wrong with sources or options.
    """
    check_target(options.out, 0, options.overwrite, holds=CONFIG_FILE)
    captions = read_captions(options.cache.captions)
    optimisers(options.training.optimiser)
    work = options.work or options.out.with_name(f"{options.out.name}.work")
    devices = these_devices()
    tell = tell if devices.rank == 0 else _silent
    work.mkdir(parents=True, exist_ok=True)
    source = _open(source_files(options, out=work / "encoder"), tell)
    if options.cache.cfg_scale is None:
        own = guidance_of(source.raw_config)
        options = replace(options, cache=replace(options.cache, cfg_scale=own))
    lighten(
        source.model.dit, bf16=options.training.bf16, checkpointing=options.training.checkpointing
    )
    teacher = Teacher.of(source.model, devices.device)
    shards = _trajectories(options, captions, source, teacher, work, devices, tell)
    taught, held_out = shards[:-1] or shards, shards[-1:] if len(shards) > 1 else []
    facts = _run_facts(options, source)
    bind(work / "run.json", facts, what="training")
    parameters = trained_parameters(teacher.dit, options.training, seed=options.cache.seed)
    velocity, nodes = velocity_of(teacher.dit), options.cache.nodes
    lessons, unseen = (
        Lessons(pairs_of(some), velocity, nodes, teacher.silence, devices.device)
        for some in (taught, held_out)
    )
    values = train(
        parameters,
        lessons,
        options.training,
        folder=work,
        seed=options.cache.seed,
        devices=devices,
        tell=tell,
    )
    found = Distilled(
        out=options.out,
        trained_error=lessons.error(_some(lessons.pairs)),
        held_out_error=unseen.error(_some(unseen.pairs)) if held_out else None,
    )
    if devices.rank == 0:
        tell("writing the student")
        errors = {"trained_error": found.trained_error, "held_out_error": found.held_out_error}
        write_student(
            options.out,
            source.checkpoint,
            source.raw_config,
            _weights(teacher.dit, values, source, options.training),
            grid=nodes,
            record={**facts, **errors},
            overwrite=options.overwrite,
        )
    devices.wait()
    return found if devices.rank == 0 else None


def _silent(_: str) -> None:
    """What the other devices say."""


def _open(files: ExportOptions, tell: Tell) -> _Source:
    config, raw = read_config(files.config)
    if student_of(raw) is not None:
        raise ExportError(f"{files.config} is a student's: only a guided teacher can be distilled")
    checkpoint = open_checkpoint(files.checkpoint)
    sizes, tensors = checked_tensors(config, checkpoint.model)
    tell("reading the checkpoint")
    return _Source(
        files=files,
        checkpoint=checkpoint,
        sha256=checkpoint.sha256(),
        raw_config=raw,
        tensors=tensors,
        model=load_reference(sizes, tensors),
    )


def _trajectories(
    options: DistillOptions,
    captions: tuple[str, ...],
    source: _Source,
    teacher: Teacher,
    work: Path,
    devices: Devices,
    tell: Tell,
) -> list[Shard]:
    """Another student's, or the own cache, with what was missing of it made."""
    if devices.rank == 0:  # the others open what it exports
        encoder_bundle(options.bundle, source.files, sha256=source.sha256, tell=tell)
    devices.wait()
    bundle = encoder_bundle(options.bundle, source.files, sha256=source.sha256, tell=tell)
    requests = Requests(
        dims=bundle.manifest.dims,
        stages=stages_of(bundle),
        options=options.cache,
        captions=captions,
    )
    facts = cache_facts(options.cache, requests, sha256=source.sha256, bf16=options.training.bf16)
    if options.trajectories is not None:
        return thinned(options.trajectories, facts, shards=options.cache.shards)
    cache = Cache(work / "cache", facts, shards=options.cache.shards)
    if cache.missing():
        with unsaid(), Session(bundle.directory, allow_uncertified=True) as session:
            rows = options.training.micro_batch or options.training.batch
            fill(cache, teacher, requests, session, devices=devices, rows=rows, tell=tell)
    devices.wait()
    return cache.read()


def _run_facts(options: DistillOptions, source: _Source) -> dict[str, object]:
    """What decides the student, but for the trajectories' requests."""
    how = {k: v for k, v in asdict(options.training).items() if k not in _NO_MATTER}
    return {
        "teacher": source.sha256,
        "cfg_scale": options.cache.guidance,
        "grid": list(options.cache.nodes),
        "shards": options.cache.shards,
        "seed": options.cache.seed,
        **how,
        "rate": options.training.peak_rate,
    }


def _weights(
    dit: DiT, values: Mapping[str, Tensor], source: _Source, options: TrainingOptions
) -> Mapping[str, Tensor]:
    """The student's weights by their names in the transformer."""
    if options.lora_rank is None:
        return values
    added = merged(dit, values)
    return {name: source.tensors[DIT + name].float32() + delta for name, delta in added.items()}


def _some(pairs: Sequence[Pair]) -> list[int]:
    """Evenly over all of them, since neighbours are of one task."""
    count = min(_MEASURED, len(pairs))
    return np.linspace(0, len(pairs) - 1, count).round().astype(int).tolist()
