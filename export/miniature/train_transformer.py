"""Train the miniature's transformer and conditioners: a rectified flow under the frozen parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omni_rt.export.miniature import checkpoint
from omni_rt.export.miniature.conditioning import (
    Conditions,
    Senses,
    context_of,
    low_level_of,
)
from omni_rt.export.miniature.data import AUDIO_WEIGHTS, MOSTLY_EDITS, Example, any_kind, draw
from omni_rt.export.miniature.fit_vae import heard_in, read_matrix
from omni_rt.export.miniature.model import new_model
from omni_rt.export.miniature.training import Losses, Schedule, Training
from omni_rt.export.reference.autoencoder import Oobleck
from omni_rt.export.reference.model import AudioOmni

NAME = "transformer"
_BATCH, _DRAWS = 16, 2
_EARLY_LOGIT, _EARLY_SPREAD, _EARLY_SHARE = 1.0, 1.2, 0.85
_QUIET = 0.5  # latents' mean square below which softer sounds no longer count more
_WATCHED, _VIDEOS = ("flashes", "scene"), 512  # kinds with a video, and how many there are of each
_DROPPED_SHARE = 0.1  # of contexts, so that guidance has something to be guided from
_FIRST = {kind: AUDIO_WEIGHTS[kind] for kind in ("note", "chord", "chirp")}
_FIRST_SHARE = 0.03  # of the steps, on the simplest sounds alone


class TransformerTraining:
    """The training of all that is not frozen."""

    def __init__(
        self, folder: Path, senses: Senses, vae: Oobleck, *, steps: int, seed: int = 0
    ) -> None:
        self._senses, self._read = senses, read_matrix(vae)
        torch.manual_seed(seed)
        schedule = Schedule(
            steps=steps,
            peak_rate=2e-3,
            level_share=0.5,
            warmup_steps=200,
            betas=(0.9, 0.98),
            orthogonal=("model.model.transformer.layers.",),
            others_share=0.3,
        )
        self.training = Training(new_model(), schedule, folder=folder, name=NAME, seed=seed)

    @property
    def model(self) -> AudioOmni:
        """The one that is trained."""
        assert isinstance(self.training.module, AudioOmni)
        return self.training.module

    @property
    def average(self) -> AudioOmni:
        """Its moving average."""
        assert isinstance(self.training.average, AudioOmni)
        return self.training.average

    def begin_with(self, folder: Path) -> None:
        """Begin with a checkpoint's weights instead of random ones, and practise edits mostly.

        Raises ExportError if it has none or is of another configuration.
        """
        path = folder / checkpoint.MODEL_FILE
        checkpoint.get(self.average, "", path)
        self.model.load_state_dict(self.average.state_dict())
        facts = checkpoint.facts_of(path, NAME)
        made = f"{facts.get('command', 'unknown')} ({facts.get('hours', '?')} h)"
        self.training.before = "; ".join(filter(None, [facts.get("before"), made]))

    def run(self, tell: Callable[[str], None]) -> None:
        """Train to the end of the schedule."""
        self.training.run(self.objective, tell)

    def objective(self, stream: np.random.RandomState) -> Losses:
        """Losses of a drawn batch."""
        examples = [_drawn(stream, self._weights()) for _ in range(_BATCH)]
        latents = latents_of(self._read, examples)
        return flow_losses(self.model, latents, self._senses.conditions(examples))

    def _weights(self) -> Mapping[str, float]:
        """The simplest kinds first, then all; mostly edits where a run goes on from another."""
        if self.training.before:
            return MOSTLY_EDITS
        done = self.training.step / self.training.schedule.steps
        return _FIRST if done < _FIRST_SHARE else AUDIO_WEIGHTS


def _drawn(stream: np.random.RandomState, weights: Mapping[str, float]) -> Example:
    """A random example; one with a video is among a few hundred of its kind, each watched once."""
    kind = any_kind(stream, weights)
    if kind in _WATCHED:
        stream = np.random.RandomState([_WATCHED.index(kind), int(stream.randint(_VIDEOS))])
    return draw(kind, stream)


@torch.inference_mode()
def latents_of(read: Tensor, examples: Sequence[Example]) -> Tensor:
    """What the transformer is to make [B, C, L], of sounds at full peak; `read`: [C, samples]."""
    waves = np.stack([heard_in(example) for example in examples])
    waves = waves / np.maximum(np.abs(waves).max(axis=1, keepdims=True), 1e-6)
    blocks = torch.from_numpy(waves.astype(np.float32)).unflatten(1, (-1, read.shape[1]))
    return (blocks.to(read.device) @ read.T).mT


def flow_losses(
    model: AudioOmni, latents: Tensor, conditions: Conditions, *, draws: int = _DRAWS
) -> dict[str, Tensor]:
    """Squared error of the velocity noise − latents at random t, contexts dropped now and then.

    It is weighted by how soft a sound is: clicks have a hundredth of a chirp's energy, and would
    hardly count.

    Each example is met at `draws` times with noise of its own: what came before the transformer is
    then computed once for all of them.
    """
    context, mask = context_of(model, conditions)
    low_level = low_level_of(model, conditions)
    latents, context, mask, low_level = (
        rows.repeat_interleave(draws, dim=0) for rows in (latents, context, mask, low_level)
    )
    noise = torch.randn_like(latents)
    t = drawn_times(len(latents)).to(latents.device)
    x = torch.lerp(latents, noise, t[:, None, None])
    dropped = torch.rand(len(latents), device=latents.device) < _DROPPED_SHARE
    context = torch.where(dropped[:, None, None], 0.0, context)
    velocity = model.dit(x, t, context, mask, low_level)
    errors = (velocity - (noise - latents)).square().mean(dim=(1, 2))
    loudness = latents.square().mean(dim=(1, 2))
    return {"loss": (errors / (loudness + _QUIET)).mean() * _QUIET, "error": errors.mean()}


def drawn_times(count: int) -> Tensor:
    """Times [count] in (0, 1): most of them in the noisier half, where what is heard is decided."""
    early = torch.sigmoid(_EARLY_LOGIT + _EARLY_SPREAD * torch.randn(count))
    return torch.where(torch.rand(count) < _EARLY_SHARE, early, torch.rand(count))
