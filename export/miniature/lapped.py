"""The autoencoder's first weights: a lapped transform whose upper half is left out.

Random convolutions take thousands of steps to find phases above 1 kHz. So the main path begins as
an MDCT (Princen, Johnson, Bradley 1987) of one window per latent frame, spread over the strided
convolutions: they sort samples into channels, and the last one weighs 2·hop of them. The decoder
is its transpose, so lower frequencies come back but for the latents' noise, the activations' bend
and what unused channels leak; how to hold what is above them is learnt.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from omni_rt.export.reference.autoencoder import (
    Conv,
    ConvTranspose,
    Oobleck,
    ResidualUnit,
    Snake,
)

_MAIN_BEND = -4.0  # log of the main path's Snakes' α and β: nearly straight
_RESIDUAL_GAIN = 0.03
_COUPLING = 0.02  # of channels that carry nothing yet, against what they would weigh
_RAW_SCALE = -5.0  # of the posterior at the start: softplus of it is 0.007
_SHRINK = 4.0  # a loud sine's coefficients are about this large


def begin_as_lapped_transform(vae: Oobleck, strides: tuple[int, ...]) -> None:
    """Set all weights; `strides` are the encoder's, and channels must suffice for the samples."""
    for module in vae.modules():
        if isinstance(module, Snake):
            nn.init.zeros_(module.alpha)
            nn.init.zeros_(module.beta)
        elif isinstance(module, (Conv, ConvTranspose)):
            _set(module, _noise(module))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, ResidualUnit):
            last = module.layers[3]
            assert isinstance(last, Conv)
            last.weight_g.data.mul_(_RESIDUAL_GAIN)
    for module in _main_path(vae):
        if isinstance(module, Snake):
            nn.init.constant_(module.alpha, _MAIN_BEND)
            nn.init.constant_(module.beta, _MAIN_BEND)
    _set_encoder(vae, strides)
    _set_decoder(vae, strides)


def _main_path(half: nn.Module) -> list[nn.Module]:
    """All modules in order, but for those in residual units."""
    beside = {
        m for unit in half.modules() if isinstance(unit, ResidualUnit) for m in unit.modules()
    }
    return [module for module in half.modules() if module not in beside]


def _convolutions(half: nn.Module) -> list[Conv | ConvTranspose]:
    return [m for m in _main_path(half) if isinstance(m, (Conv, ConvTranspose))]


def _set_encoder(vae: Oobleck, strides: tuple[int, ...]) -> None:
    first, *strided, last = _convolutions(vae.encoder)
    assert isinstance(last, Conv)
    assert last.bias is not None
    mixed = torch.zeros_like(first.weight_v)
    mixed[0, :, mixed.shape[2] // 2] = 1 / mixed.shape[1]
    _blend(first, mixed, used=1)
    held = 1
    for conv, stride in zip(strided[:-1], strides, strict=False):
        _blend(conv, _sorting(conv.weight_v, held, stride), used=held * stride)
        held *= stride
    stride = strides[-1]
    basis = mdct(held * stride).reshape(-1, 2 * stride, held).transpose(1, 2) / _SHRINK
    weight = torch.zeros_like(strided[-1].weight_v)
    weight[: len(basis), :held] = basis
    _blend(strided[-1], weight, used=len(basis))
    latents = last.bias.shape[0] // 2
    kept = torch.zeros_like(last.weight_v)
    kept[:latents, :latents, 1] = torch.eye(latents)
    _blend(last, kept, used=latents)
    last.weight_g.data[latents:] *= _COUPLING
    last.bias.data[latents:] = _RAW_SCALE


def _set_decoder(vae: Oobleck, strides: tuple[int, ...]) -> None:
    first, *strided, last = _convolutions(vae.decoder)
    latents = first.weight_v.shape[1]
    given = torch.zeros_like(first.weight_v)
    given[:latents, :, given.shape[2] // 2] = torch.eye(latents)
    _blend(first, given, used=latents)
    first.weight_g.data[latents:] *= _COUPLING
    held = int(np.prod(strides[:-1]))
    stride = strides[-1]
    basis = mdct(held * stride).reshape(-1, 2 * stride, held).transpose(1, 2) * _SHRINK
    weight = torch.zeros_like(strided[0].weight_v)
    weight[: len(basis), :held] = basis
    _blend(strided[0], weight, used=len(basis))
    for conv, stride in zip(strided[1:], reversed(strides[:-1]), strict=True):
        held //= stride
        _blend(conv, _sorting(conv.weight_v, held, stride), used=held * stride)
    both = torch.zeros_like(last.weight_v)
    both[:, 0, both.shape[2] // 2] = 1
    _blend(last, both, used=len(both))


def mdct(hop: int) -> Tensor:
    """The orthonormal lapped transform [hop, 2·hop] with a sine window."""
    time, number = np.arange(2 * hop) + 0.5, np.arange(hop) + 0.5
    window = np.sin(np.pi * time / (2 * hop))
    turns = np.outer(number, time + hop / 2) * np.pi / hop
    return torch.tensor(np.sqrt(2 / hop) * window * np.cos(turns), dtype=torch.float32)


def _sorting(like: Tensor, held: int, stride: int) -> Tensor:
    """Weights [many, few, 2·stride] that put `stride` frames of `held` channels side by side.

    Transposed, they take them apart again.
    """
    weight = torch.zeros_like(like)
    for frame in range(stride):
        for channel in range(held):
            weight[frame * held + channel, channel, frame + stride // 2] = 1
    return weight


def _noise(conv: Conv | ConvTranspose) -> Tensor:
    """Random weights that keep the size of a signal."""
    v = conv.weight_v
    heard = 2 * v.shape[0] if isinstance(conv, ConvTranspose) else v[0].numel()
    return torch.randn_like(v) * heard**-0.5


def _blend(conv: Conv | ConvTranspose, wanted: Tensor, *, used: int) -> None:
    """Rows below `used` do what is wanted and hardly hear the rest; the others are random."""
    noise = _noise(conv)
    if isinstance(conv, ConvTranspose):
        noise[used:] *= _COUPLING  # its rows are inputs: what carries nothing is hardly heard
    noise[:used] = wanted[:used] + noise[:used] * _COUPLING * (wanted[:used] == 0)
    _set(conv, noise)


def _set(conv: Conv | ConvTranspose, weight: Tensor) -> None:
    conv.weight_v.data.copy_(weight)
    conv.weight_g.data.copy_(weight.flatten(1).norm(dim=1)[:, None, None])
