"""The two stages of a student's training, each resumed where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from omni_rt.calibration.distill.devices import Devices
from omni_rt.calibration.distill.objective import Lessons, Loss
from omni_rt.calibration.distill.options import TrainingOptions
from omni_rt.calibration.distill.trained import Parameters
from omni_rt.calibration.distill.training import Batches, StudentTraining
from omni_rt.errors import ExportError

Tell = Callable[[str], None]

SEGMENTS, TRACKING = "segments", "tracking"


def train(
    parameters: Parameters,
    lessons: Lessons,
    options: TrainingOptions,
    *,
    folder: Path,
    seed: int,
    devices: Devices,
    tell: Tell,
) -> dict[str, Tensor]:
    """Both stages to their ends. Returns the student's parameters: the last stage's average.

    `parameters` are the model's that `lessons` run, and are left at that average too.
    Raises ExportError at the first number that is not finite; the last good state stays.
    """
    share = -(-options.batch // devices.count)
    if options.batch < devices.count * lessons.segments:
        raise ExportError(
            f"distill: a batch of {options.batch} is less than a trajectory of {lessons.segments} "
            f"steps for each of {devices.count} devices"
        )
    at_once = min(share, options.micro_batch or share)
    pairs, count = len(lessons.pairs), lessons.segments
    stages: tuple[tuple[str, Loss, int, int, int], ...] = (
        (SEGMENTS, lessons.segment_loss, options.segment_steps, pairs * count, 1),
        (TRACKING, lessons.tracking_loss, options.tracking_steps, pairs, count),
    )
    found: dict[str, Tensor] = {}
    for name, loss, steps, among, rows in stages:
        if steps == 0:
            continue
        batches = Batches(
            loss,
            among=among,
            drawn=options.batch // rows,
            at_once=max(1, at_once // rows),
            devices=devices,
        )
        training = partial(
            StudentTraining, parameters, options, steps=steps, folder=folder, name=name, seed=seed
        )
        found = _run(training(devices=devices), batches, devices, partial(_tell_of, name, tell))
        put(found, parameters)
    return found


def _run(
    training: StudentTraining, batches: Batches, devices: Devices, tell: Tell
) -> dict[str, Tensor]:
    """One stage to its end. What it held on the device is gone before the next begins."""
    if training.resume():
        tell(f"goes on at step {training.step}")
    devices.wait()  # nobody writes before everybody has read
    if not training.finished:
        training.run(batches, tell)
    return training.averaged


def _tell_of(stage: str, tell: Tell, told: str) -> None:
    tell(f"{stage}: {told}")


@torch.no_grad()
def put(values: Mapping[str, Tensor], parameters: Parameters) -> None:
    """Give parameters these values."""
    for name, value in values.items():
        parameters[name].copy_(value)
