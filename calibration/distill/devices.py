"""One device, or several processes that `accelerate launch` started, each with its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import nn

from omni_rt.errors import ExportError
from omni_rt.export.miniature.training import best_device

_LONGEST_WAIT = timedelta(days=7)  # of one device for another's shards


class Devices(Protocol):
    """What training needs to know of them."""

    @property
    def device(self) -> torch.device: ...
    @property
    def rank(self) -> int: ...
    @property
    def count(self) -> int: ...

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over all devices."""
        ...

    def wait(self) -> None:
        """Return once every process is here."""
        ...


class OneDevice:
    """This process alone."""

    rank, count = 0, 1

    def __init__(self) -> None:
        self.device = best_device()

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing: there is nobody else."""

    def wait(self) -> None:
        """Nothing: there is nobody else."""


class AcceleratedDevices:
    """Processes that accelerate has started and connects."""

    def __init__(self) -> None:
        try:
            from accelerate import Accelerator, InitProcessGroupKwargs
        except ImportError as error:
            raise ExportError(
                "several processes need accelerate: pip install 'omni_rt[distill]'"
            ) from error
        patient = InitProcessGroupKwargs(timeout=_LONGEST_WAIT)
        self._accelerator: Any = Accelerator(kwargs_handlers=[patient])
        found: torch.device = self._accelerator.device
        # accelerate's "cpu:0" is a place that torch.load does not restore to.
        self.device = torch.device("cpu") if found.type == "cpu" else found
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = self._accelerator.reduce(parameter.grad, reduction="mean")

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()


def these_devices() -> Devices:
    """As `accelerate launch` tells each process by its environment."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return AcceleratedDevices() if several else OneDevice()
