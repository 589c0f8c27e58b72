"""Train the miniature's autoencoder on crops of everything the tasks sound like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omni_rt.export.config import parse_config
from omni_rt.export.miniature.config import STRIDES, miniature_config
from omni_rt.export.miniature.data import AUDIO_KINDS, Example, Wave, draw, draw_any
from omni_rt.export.miniature.lapped import begin_as_lapped_transform
from omni_rt.export.miniature.training import Losses, Schedule, Training
from omni_rt.export.miniature.vae import vae_losses
from omni_rt.export.reference.autoencoder import Oobleck

NAME = "vae"
_CLIPS, _CROPS_EACH, _CROP_SAMPLES = 8, 2, 4096
# What is hardest to keep comes oftener: formants, and the overtones that make a wave's shape.
_WEIGHTS = dict.fromkeys(AUDIO_KINDS, 1.0) | {"speech": 4.0, "note": 2.0, "style": 3.0}


def vae_schedule(steps: int) -> Schedule:
    return Schedule(
        steps=steps,
        peak_rate=2e-3,
        warmup_steps=100,
        betas=(0.8, 0.99),
        orthogonal=("encoder.", "decoder."),
    )


def new_vae() -> Oobleck:
    """The autoencoder of the configuration, initialised."""
    config = parse_config(miniature_config())
    vae = Oobleck(config.encoder, config.decoder, scale=config.latent_scale)
    begin_as_lapped_transform(vae, STRIDES)
    return vae


def vae_training(folder: Path, *, steps: int, seed: int = 0) -> Training:
    """The training, from the state in the folder if there is one."""
    torch.manual_seed(seed)
    return Training(new_vae(), vae_schedule(steps), folder=folder, name=NAME, seed=seed)


def train_vae(training: Training, tell: Callable[[str], None]) -> None:
    """Train to the end of the schedule."""
    vae = training.module
    assert isinstance(vae, Oobleck)

    def objective(stream: np.random.RandomState) -> Losses:
        return vae_losses(vae, crops(stream).to(training.device))

    training.run(objective, tell)


def crops(stream: np.random.RandomState) -> Tensor:
    """Crops [B, 2, samples] of drawn sounds at random levels."""
    found = []
    for _ in range(_CLIPS):
        wave = heard_in(draw_any(stream, _WEIGHTS))
        for _ in range(_CROPS_EACH):
            start = stream.randint(0, wave.shape[-1] - _CROP_SAMPLES + 1)
            found.append(wave[start : start + _CROP_SAMPLES] * stream.uniform(0.4, 1.2))
    return torch.from_numpy(np.stack(found).astype(np.float32))[:, None].repeat(1, 2, 1)


def heard_in(example: Example) -> Wave:
    """What the autoencoder meets: targets, for the tasks' sounds are made from nothing else."""
    target = example.target
    assert isinstance(target, np.ndarray)
    return target


def whole_clips(seed: int, count: int) -> Tensor:
    """Targets [count, 2, samples] of all kinds, peak-normalised, to measure the latents on."""
    stream = np.random.RandomState(seed)
    waves = [heard_in(draw(AUDIO_KINDS[i % len(AUDIO_KINDS)], stream)) for i in range(count)]
    clips = np.stack([wave / max(float(np.abs(wave).max()), 1e-6) for wave in waves])
    return torch.from_numpy(clips.astype(np.float32))[:, None].repeat(1, 2, 1)
