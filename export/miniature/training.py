"""One training loop for every part: resumable, logged, stopped by the first bad number.

A step's batch depends on the seed and the step alone, so a run that was killed goes on as if
nothing had happened, from a state that is at most a minute old.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omni_rt.errors import ExportError
from omni_rt.export.miniature.muon import Muon

SAVE_EVERY_S = 60.0
_LOG_EVERY = 50

Losses = Mapping[str, Tensor]  # "loss" is minimised; the others are logged
Objective = Callable[[np.random.RandomState], Losses]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Linear warm-up, a share of the steps at the peak, a cosine to a tenth of a percent of it."""

    steps: int
    peak_rate: float
    level_share: float = 0.0  # of the steps before the cosine begins
    warmup_steps: int = 100
    ema_decay: float = 0.999
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    orthogonal: tuple[str, ...] = ()  # prefixes of the matrices that Muon trains
    others_share: float = 1.0  # of the rate, for all that Muon does not train

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        done = max(0.0, step / self.steps - self.level_share) / (1 - self.level_share)
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(done, 1.0))
        return self.peak_rate * warm * (0.001 + 0.999 * cosine)


def best_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def optimisers_of(module: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices that `schedule.orthogonal` names, AdamW for all else.

    Their updates are of one size, so that one rate serves both.
    """
    turned: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        matrix = parameter.dim() > 1 and parameter[0].numel() > 1
        if parameter.requires_grad:
            turns = matrix and name.startswith(schedule.orthogonal)
            (turned if turns else others).append(parameter)
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            others,
            lr=schedule.peak_rate,
            betas=schedule.betas,
            weight_decay=schedule.weight_decay,
        )
    ]
    if turned:
        found.append(Muon(turned, lr=schedule.peak_rate, weight_decay=schedule.weight_decay))
    return found


Optimisers = Callable[[nn.Module, Schedule], list[torch.optim.Optimizer]]


class Training:
    """A module, its optimisers and its moving average, kept in one file of `folder`."""

    def __init__(
        self,
        module: nn.Module,
        schedule: Schedule,
        *,
        folder: Path,
        name: str,
        seed: int,
        device: torch.device | None = None,
        optimisers: Optimisers = optimisers_of,
    ) -> None:
        self.device = best_device() if device is None else device
        self.module, self.schedule, self.seed, self.step = module, schedule, seed, 0
        self.module.to(self.device)
        self.average = copy.deepcopy(module).eval().requires_grad_(False)
        self.optimisers = optimisers(module, schedule)
        folder.mkdir(parents=True, exist_ok=True)
        self._state, self._log = folder / f"{name}.pt", folder / f"{name}.jsonl"
        self.elapsed_s = 0.0  # of all runs together
        self.before = ""  # how the weights that it begins with were made; random ones if empty
        self.save_every_s = SAVE_EVERY_S
        self._saved_at = time.monotonic()

    @property
    def finished(self) -> bool:
        return self.step >= self.schedule.steps

    def resume(self) -> bool:
        """Go on from the state in the folder, if there is one.

        Raises ExportError if it belongs to another configuration or cannot be read.
        """
        if not self._state.is_file():
            return False
        try:
            state = torch.load(self._state, weights_only=True, map_location=self.device)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise ExportError(f"{self._state} cannot be read: {error}"[:200]) from error
        try:
            self.module.load_state_dict(state["module"])
            self.average.load_state_dict(state["average"])
            for optimiser, own in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(own)
        except (RuntimeError, KeyError, ValueError) as error:
            raise ExportError(f"{self._state} was trained with another configuration") from error
        self.step, self.elapsed_s = int(state["step"]), float(state["elapsed_s"])
        self.before = str(state.get("before", ""))
        return True

    def save(self) -> None:
        """Write the state, whole or not at all.

        Raises ExportError if that cannot be, a full disk for example; the last one stays.
        """
        state = {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "before": self.before,
        }
        draft = self._state.with_suffix(".partial")
        try:
            torch.save(state, draft)
            draft.replace(self._state)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            draft.unlink(missing_ok=True)
            raise ExportError(
                f"cannot write {self._state}, is the disk full? The state before stays "
                f"({str(error).splitlines()[0]:.120})"
            ) from error
        self._saved_at = time.monotonic()

    def run(self, objective: Objective, tell: Callable[[str], None]) -> None:
        """Train to the end of the schedule; `objective` gives the losses of a seeded batch.

        Raises ExportError at the first loss or gradient that is not finite; the last good state
        stays in the folder.
        """
        self.module.train()
        begun, first, before_s = time.monotonic(), self.step, self.elapsed_s
        sums: dict[str, float] = {}
        summed = 0
        while not self.finished:
            stream = np.random.RandomState([self.seed, self.step])
            torch.manual_seed(self.seed * 1_000_003 + self.step)
            losses = objective(stream)
            self._update(losses["loss"])
            self.elapsed_s = before_s + time.monotonic() - begun
            summed += 1
            for key, value in losses.items():
                sums[key] = sums.get(key, 0.0) + float(value.detach())
            if self.step % _LOG_EVERY == 0 or self.finished:
                done = self.step - first
                means = {key: value / summed for key, value in sums.items()}
                sums, summed = {}, 0
                self.note({"step": self.step, "rate": self.schedule.rate(self.step), **means})
                pace = done / (time.monotonic() - begun)
                left = (self.schedule.steps - self.step) / pace / 60
                shown = ", ".join(f"{key} {value:.4f}" for key, value in means.items())
                tell(f"step {self.step}/{self.schedule.steps}: {shown}; {left:.0f} min left")
            if time.monotonic() - self._saved_at >= self.save_every_s:
                self.save()
        self.save()

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to what the objective may have left there already."""
        loss.backward()

    def _update(self, loss: Tensor) -> None:
        rate = self.schedule.rate(self.step)
        for optimiser in self.optimisers:
            share = 1.0 if isinstance(optimiser, Muon) else self.schedule.others_share
            for group in optimiser.param_groups:
                group["lr"] = rate * share
        self.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.schedule.clip_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise ExportError(f"step {self.step}: the loss or its gradient is not finite")
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        decay = min(self.schedule.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(
                self.average.state_dict().values(), self.module.state_dict().values(), strict=True
            ):
                if mean.dtype.is_floating_point:
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)
        self.step += 1

    def note(self, record: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(record)) + "\n")
