"""The miniature's autoencoder: initialisation, loss and training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omni_rt.export.reference.autoencoder import (
    Conv,
    ConvTranspose,
    Oobleck,
    ResidualUnit,
    Snake,
    weight_norm,
)

_WINDOWS = (1024, 512, 256, 128, 64)
_LOG_FLOOR = 5e-3  # high: below it, noise is not worth the bits
_RESIDUAL_GAIN = 0.3
_RAW_SCALE = -3.0  # of the posterior at the start: softplus of it is 0.05


def initialise(vae: Oobleck) -> None:
    """Random weights that keep the size of a signal through every layer."""
    for module in vae.modules():
        if isinstance(module, Snake):
            nn.init.zeros_(module.alpha)
            nn.init.zeros_(module.beta)
        elif isinstance(module, (Conv, ConvTranspose)):
            heard = module.weight_v[0].numel()
            if isinstance(module, ConvTranspose):  # each output hears 2 taps of every input
                heard = 2 * module.weight_v.shape[0]
            nn.init.normal_(module.weight_v, std=heard**-0.5)
            module.weight_g.data.copy_(module.weight_v.flatten(1).norm(dim=1)[:, None, None])
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, ResidualUnit):
            last = module.layers[3]
            assert isinstance(last, Conv)
            last.weight_g.data.mul_(_RESIDUAL_GAIN)
    final = vae.encoder.layers[-1]
    assert isinstance(final, Conv)
    assert final.bias is not None
    channels = final.bias.shape[0] // 2
    final.bias.data[channels:] = _RAW_SCALE


def spectral_distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Log-magnitude and relative magnitude differences of [B, n], over several resolutions."""
    total = found.new_zeros(())
    for size in _WINDOWS:
        window = torch.hann_window(size)
        a, b = (
            torch.stft(x, size, size // 4, window=window, return_complex=True).abs()
            for x in (found, wanted)
        )
        floor = _LOG_FLOOR * size**0.5
        total = total + ((a + floor).log() - (b + floor).log()).abs().mean()
        total = total + (a - b).norm() / (b.norm() + 1e-2)
    return total / len(_WINDOWS)


def vae_losses(vae: Oobleck, clips: Tensor, *, kl_weight: float = 2e-5) -> dict[str, Tensor]:
    """Losses of clips [B, 2, n]: spectra, waveform, agreement of the channels, and the prior."""
    mean, std = vae.encode(clips)
    out = vae.decode(mean + std * torch.randn_like(std))
    mixed, wanted = out.mean(1), clips.mean(1)
    spectra = spectral_distance(mixed, wanted)
    error = (mixed - wanted).square().mean(-1).add(1e-7).sqrt()
    wave = (error / (wanted.square().mean(-1).sqrt() + 0.02)).mean()
    side = (out[:, 0] - out[:, 1] - clips[:, 0] + clips[:, 1]).abs().mean()
    prior = (0.5 * (mean.square() + std.square() - 1) - std.log()).sum(1).mean()
    return {
        "loss": spectra + 2 * wave + side + kl_weight * prior,
        "spectra": spectra,
        "wave": wave,
        "prior": prior,
    }


@torch.no_grad()
def normalise_latents(vae: Oobleck, clips: Tensor) -> None:
    """Fold a scale per channel into the convolutions, so that the clips' latents have std 1.

    Exact for the means; of the posterior's spread, as far as softplus is an exponential.
    """
    mean, _ = vae.encode(clips)
    scale = mean.std((0, 2))
    last, first = vae.encoder.layers[-1], vae.decoder.layers[0]
    assert isinstance(last, Conv)
    assert isinstance(first, Conv)
    assert last.bias is not None
    channels = len(scale)
    last.weight_g[:channels] /= scale[:, None, None]
    last.bias[:channels] /= scale
    last.bias[channels:] -= scale.log()
    first.weight_v.copy_(weight_norm(first.weight_g, first.weight_v) * scale[:, None])
    first.weight_g.copy_(first.weight_v.flatten(1).norm(dim=1)[:, None, None])
