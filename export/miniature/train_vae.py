"""Train the miniature's autoencoder on crops of everything the tasks sound like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omni_rt.export.config import parse_config
from omni_rt.export.miniature.config import (
    DOWNSAMPLING,
    LATENT_CHANNELS,
    STRIDES,
    miniature_config,
)
from omni_rt.export.miniature.data import AUDIO_KINDS, AUDIO_WEIGHTS, Example, Wave, draw_any
from omni_rt.export.miniature.data.clip import STEP_SAMPLES
from omni_rt.export.miniature.principal import LinearCode, begin_as_linear_code
from omni_rt.export.miniature.training import Losses, Schedule, Training
from omni_rt.export.miniature.vae import vae_losses
from omni_rt.export.reference.autoencoder import Oobleck

NAME = "vae"
_CLIPS, _CROPS_EACH, _CROP_SAMPLES = 8, 2, 4096
_CLIPS_TO_SPAN = 4000
# What is hardest to keep comes oftener: formants, and the overtones that make a wave's shape.
_WEIGHTS = dict.fromkeys(AUDIO_KINDS, 1.0) | {
    "speech": 3.0,
    "note": 2.0,
    "style": 3.0,
    "noise": 2.0,
}


def vae_schedule(steps: int) -> Schedule:
    return Schedule(
        steps=steps,
        peak_rate=2e-3,
        warmup_steps=100,
        betas=(0.8, 0.99),
        orthogonal=("encoder.", "decoder."),
    )


def empty_vae() -> Oobleck:
    """The autoencoder of the configuration, its weights not set."""
    config = parse_config(miniature_config())
    return Oobleck(config.encoder, config.decoder, scale=config.latent_scale)


def new_vae(seed: int) -> Oobleck:
    """The autoencoder before training: a linear code of the principal components of our sounds."""
    torch.manual_seed(seed)
    vae = empty_vae()
    waves = whole_clips(seed + 2, _CLIPS_TO_SPAN, _WEIGHTS)[:, 0]
    begin_as_linear_code(vae, STRIDES, LinearCode.of(waves, DOWNSAMPLING, LATENT_CHANNELS))
    return vae


def vae_training(folder: Path, *, steps: int, seed: int = 0) -> Training:
    """The training, from the state in the folder if there is one."""
    return Training(new_vae(seed), vae_schedule(steps), folder=folder, name=NAME, seed=seed)


def train_vae(training: Training, tell: Callable[[str], None]) -> None:
    """Train to the end of the schedule."""
    vae = training.module
    assert isinstance(vae, Oobleck)

    def objective(stream: np.random.RandomState) -> Losses:
        return vae_losses(vae, crops(stream).to(training.device))

    training.run(objective, tell)


def crops(stream: np.random.RandomState) -> Tensor:
    """Crops [B, 2, samples] of drawn sounds at random levels, of whole steps."""
    found = []
    for _ in range(_CLIPS):
        wave = heard_in(draw_any(stream, _WEIGHTS))
        for _ in range(_CROPS_EACH):
            start = STEP_SAMPLES * stream.randint(
                0, (len(wave) - _CROP_SAMPLES) // STEP_SAMPLES + 1
            )
            found.append(wave[start : start + _CROP_SAMPLES] * stream.uniform(0.4, 1.2))
    return torch.from_numpy(np.stack(found).astype(np.float32))[:, None].repeat(1, 2, 1)


def heard_in(example: Example) -> Wave:
    """What the autoencoder meets: targets, for the tasks' sounds are made from nothing else."""
    target = example.target
    assert isinstance(target, np.ndarray)
    return target


def whole_clips(seed: int, count: int, weights: Mapping[str, float] = AUDIO_WEIGHTS) -> Tensor:
    """Targets [count, 2, samples] of all kinds, peak-normalised."""
    stream = np.random.RandomState(seed)
    waves = [heard_in(draw_any(stream, weights)) for _ in range(count)]
    clips = np.stack([wave / max(float(np.abs(wave).max()), 1e-6) for wave in waves])
    return torch.from_numpy(clips.astype(np.float32))[:, None].repeat(1, 2, 1)
