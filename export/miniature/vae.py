"""The miniature's autoencoder: its loss, and the scale of its latents."""

from __future__ import annotations

import torch
from torch import Tensor

from omni_rt.export.reference.autoencoder import (
    Conv,
    Oobleck,
    weight_norm,
)

_WINDOWS = (1024, 512, 256, 128, 64)
_LOG_FLOOR = 5e-3  # high: below it, noise is not worth the bits
_EMPHASIS = 0.8  # of high frequencies: without it, all above 2 kHz is left out (second formants)


def spectral_distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Log-magnitude and relative magnitude differences of [B, n], over several resolutions."""
    total = found.new_zeros(())
    for size in _WINDOWS:
        window = torch.hann_window(size, device=found.device)
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
    bright, wanted_bright = _emphasised(mixed), _emphasised(wanted)
    spectra = spectral_distance(bright, wanted_bright)
    wave = (_relative_error(mixed, wanted) + _relative_error(bright, wanted_bright)) / 2
    side = (out[:, 0] - out[:, 1] - clips[:, 0] + clips[:, 1]).abs().mean()
    prior = (0.5 * (mean.square() + std.square() - 1) - std.log()).sum(1).mean()
    return {
        "loss": spectra + 2 * wave + side + kl_weight * prior,
        "spectra": spectra,
        "wave": wave,
        "prior": prior,
    }


def _emphasised(wave: Tensor) -> Tensor:
    """High frequencies louder than low ones, by up to 19 dB."""
    return wave[..., 1:] - _EMPHASIS * wave[..., :-1]


def _relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    error = (found - wanted).square().mean(-1).add(1e-7).sqrt()
    return (error / (wanted.square().mean(-1).sqrt() + 0.02)).mean()


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
