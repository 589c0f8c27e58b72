"""Fit the miniature's autoencoder: the principal components of what the tasks sound like."""

from __future__ import annotations

from collections.abc import Mapping

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
from omni_rt.export.miniature.data import AUDIO_KINDS, Example, Wave, draw_any
from omni_rt.export.miniature.principal import LinearCode, become_linear_code
from omni_rt.export.reference.autoencoder import Oobleck

_CLIPS_TO_SPAN = 4000
_IMPULSE = 0.1
# What is hardest to keep comes oftener: formants, and soft sounds beside loud ones.
_WEIGHTS = dict.fromkeys(AUDIO_KINDS, 1.0) | {
    "speech": 4.0,
    "voice_speech": 2.0,
    "voice_conversion": 2.0,
    "note": 2.0,
    "style": 3.0,
    "noise": 2.0,
    "add": 3.0,
    "remove": 3.0,
    "extract": 3.0,
}


def empty_vae() -> Oobleck:
    """The autoencoder of the configuration, its weights not set."""
    config = parse_config(miniature_config())
    return Oobleck(config.encoder, config.decoder, scale=config.latent_scale)


def fitted_vae(seed: int, *, clips: int = _CLIPS_TO_SPAN) -> Oobleck:
    """The linear code of a seeded draw of sounds, as an autoencoder."""
    torch.manual_seed(seed)
    vae = empty_vae()
    waves = whole_clips(seed + 2, clips, _WEIGHTS)[:, 0]
    become_linear_code(vae, STRIDES, LinearCode.of(waves, DOWNSAMPLING, LATENT_CHANNELS))
    return vae.eval()


@torch.inference_mode()
def read_matrix(vae: Oobleck) -> Tensor:
    """What a fitted autoencoder weighs the samples of a latent by, [C, DOWNSAMPLING].

    Its latents are `blocks @ read_matrix.T` but for what it bends and leaks, for a hundredth of its
    work. Heard with impulses, small enough that nothing bends, between silent blocks.
    """
    impulses = torch.zeros(DOWNSAMPLING, 2, 3 * DOWNSAMPLING)
    rows = torch.arange(DOWNSAMPLING)
    impulses[rows, :, DOWNSAMPLING + rows] = _IMPULSE
    heard = vae.encode(torch.cat([impulses, torch.zeros_like(impulses[:1])]))[0][..., 1]
    return (heard[:-1] - heard[-1]).T / _IMPULSE


def heard_in(example: Example) -> Wave:
    """What the autoencoder meets: targets, for the tasks' sounds are made from nothing else."""
    target = example.target
    assert isinstance(target, np.ndarray)
    return target


def whole_clips(seed: int, count: int, weights: Mapping[str, float] = _WEIGHTS) -> Tensor:
    """Targets [count, 2, samples] of all kinds, peak-normalised."""
    stream = np.random.RandomState(seed)
    waves = [heard_in(draw_any(stream, weights)) for _ in range(count)]
    clips = np.stack([wave / max(float(np.abs(wave).max()), 1e-6) for wave in waves])
    return torch.from_numpy(clips.astype(np.float32))[:, None].repeat(1, 2, 1)
