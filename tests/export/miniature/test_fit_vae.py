"""The autoencoder is the linear code of our sounds; its latents are what a flow needs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from omni_rt.export.miniature.config import DOWNSAMPLING, LATENT_CHANNELS
from omni_rt.export.miniature.fit_vae import fitted_vae, read_matrix, whole_clips
from omni_rt.export.miniature.principal import LinearCode
from omni_rt.export.reference.autoencoder import Oobleck

CLIPS = 200
_STRAIGHT = 0.02  # −34 dB: of what residual units, unused channels and Snakes add


@pytest.fixture(scope="module")
def waves() -> Tensor:
    """What `fitted_vae(0, clips=CLIPS)` is fitted to [B, samples]."""
    return whole_clips(2, CLIPS)[:, 0]


@pytest.fixture(scope="module")
def code(waves: Tensor) -> LinearCode:
    return LinearCode.of(waves, DOWNSAMPLING, LATENT_CHANNELS)


@pytest.fixture(scope="module")
def vae() -> Oobleck:
    return fitted_vae(0, clips=CLIPS)


def blocks(waves: Tensor) -> Tensor:
    return waves.unflatten(1, (-1, DOWNSAMPLING))


def test_reading_what_was_written_gives_it_back(code: LinearCode) -> None:
    assert torch.allclose(code.read @ code.write.T, torch.eye(LATENT_CHANNELS), atol=1e-5)


def test_more_components_keep_more(waves: Tensor) -> None:
    left = []
    for count in (44, 88, 176, DOWNSAMPLING):
        code = LinearCode.of(waves, DOWNSAMPLING, count)
        spanned = blocks(waves) @ code.read.T @ code.write
        left.append(float((spanned - blocks(waves)).norm() / waves.norm()))
    assert left == sorted(left, reverse=True)
    assert left[2] < 0.16  # -16 dB; .154 measured
    assert left[3] < 1e-5  # all of them: fp32 rounding


def test_latents_have_variance_one_and_the_strongest_the_largest(
    waves: Tensor, code: LinearCode
) -> None:
    power = (blocks(waves) @ code.read.T).square().mean((0, 1))
    assert float(power.mean()) == pytest.approx(1, abs=1e-4)
    assert power[:20].mean() > 1.5 * power[-20:].mean()


def test_the_network_is_the_code(vae: Oobleck, code: LinearCode, waves: Tensor) -> None:
    clips = waves[:20, None].repeat(1, 2, 1)
    with torch.no_grad():
        latents, spread = vae.encode(clips)
        out = vae.decode(latents)
    wanted = (blocks(clips[:, 0]) @ code.read.T).mT
    assert (latents - wanted).norm() / wanted.norm() < _STRAIGHT
    spanned = (wanted.mT @ code.write).flatten(1)[:, None].repeat(1, 2, 1)
    assert (out - spanned).norm() / spanned.norm() < _STRAIGHT
    assert spread.max() < 0.05


def test_its_matrix_is_heard_with_impulses(vae: Oobleck, code: LinearCode) -> None:
    found = read_matrix(vae)
    assert found.shape == (LATENT_CHANNELS, DOWNSAMPLING)
    assert (found - code.read).norm() / code.read.norm() < _STRAIGHT


def test_a_tone_is_the_same_latent_in_every_frame_it_fills(vae: Oobleck) -> None:
    """A whole number of periods in half a step: what makes notes learnable in minutes."""
    rate, periods = 8000, 20
    time = torch.arange(8 * DOWNSAMPLING) / rate
    tone = torch.sin(2 * torch.pi * periods * rate / DOWNSAMPLING * time).expand(1, 2, -1)
    with torch.no_grad():
        latents, _ = vae.encode(tone)
    inner = latents[0, :, 1:-1]
    assert (inner - inner[:, :1]).norm() / inner.norm() < _STRAIGHT
