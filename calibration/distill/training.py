"""The student's part of the training loop: micro-batches, several devices, TensorBoard's logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from omni_rt.calibration.distill.devices import Devices
from omni_rt.calibration.distill.objective import Loss
from omni_rt.calibration.distill.options import Optimiser, TrainingOptions
from omni_rt.calibration.distill.trained import Parameters, Trained
from omni_rt.errors import ExportError
from omni_rt.export.miniature.training import Losses, Schedule, Training


def optimisers(kind: Optimiser) -> Any:
    """What makes the optimiser. Raises ExportError if its library is missing."""
    adamw: Any = torch.optim.AdamW
    if kind == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ExportError("adamw8bit needs bitsandbytes: pip install bitsandbytes") from error
        adamw = AdamW8bit

    def make(module: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
        return [
            adamw(
                module.parameters(),
                lr=schedule.peak_rate,
                betas=schedule.betas,
                weight_decay=schedule.weight_decay,
            )
        ]

    return make


class StudentTraining(Training):
    """One stage of a student's training. Only the first device writes."""

    def __init__(
        self,
        parameters: Parameters,
        options: TrainingOptions,
        *,
        steps: int,
        folder: Path,
        name: str,
        seed: int,
        devices: Devices,
    ) -> None:
        schedule = Schedule(
            steps=steps,
            peak_rate=options.peak_rate,
            warmup_steps=min(options.warmup_steps, steps),
            ema_decay=options.ema_decay,
        )
        self._devices = devices
        self._board = folder / "logs" / name
        self._writer: SummaryWriter | None = None
        super().__init__(
            Trained(parameters),
            schedule,
            folder=folder,
            name=name,
            seed=seed,
            device=devices.device,
            optimisers=optimisers(options.optimiser),
        )
        self.save_every_s = options.save_every_s

    @property
    def averaged(self) -> dict[str, Tensor]:
        """The moving average by the model's names, in the processor's memory."""
        assert isinstance(self.average, Trained)
        return {name: value.cpu().clone() for name, value in self.average.named().items()}

    def backward(self, loss: Tensor) -> None:
        super().backward(loss)
        self._devices.average(self.module.parameters())

    def save(self) -> None:
        if self._devices.rank == 0:
            super().save()

    def note(self, record: Mapping[str, Any]) -> None:
        if self._devices.rank != 0:
            return
        super().note(record)
        if self._writer is None:
            self._writer = SummaryWriter(str(self._board))
        for key, value in record.items():
            if key != "step":
                self._writer.add_scalar(key, value, record["step"])
        self._writer.flush()


class Batches:
    """Losses of a step's lessons: this device's share of them, some at a time.

    They depend on the seed and the step alone, whatever the number of devices.
    """

    def __init__(
        self, loss: Loss, *, among: int, drawn: int, at_once: int, devices: Devices
    ) -> None:
        """`drawn` lessons over all devices, `at_once` on one."""
        self._loss, self._among, self._devices = loss, among, devices
        self._drawn, self._at_once = drawn, at_once

    def __call__(self, stream: np.random.RandomState) -> Losses:
        """The mean loss; gradients of all but the last few rows are in the parameters already."""
        chosen = stream.randint(self._among, size=self._drawn)
        own = chosen[self._devices.rank :: self._devices.count]
        total = torch.zeros((), device=self._devices.device)
        for begin in range(0, len(own), self._at_once):
            some = own[begin : begin + self._at_once]
            loss = self._loss(some.tolist()) * (len(some) / len(own))
            if begin + self._at_once < len(own):
                loss.backward()
                loss = loss.detach()
            total = total + loss
        return {"loss": total}
