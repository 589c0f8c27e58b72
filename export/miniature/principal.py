"""An autoencoder that is a linear code: the principal components of what one latent lasts.

Our sounds run on a sequencer's steps, so blocks of one latent's length span few dimensions. The
main path of the network is their linear code, spread over the strided convolutions: they sort
samples into channels, and the last one weighs all samples of a latent by the components. The
decoder is its transpose. Residual units and unused channels hold small random weights: all of the
architecture computes something, and none of it is heard.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from omni_rt.export.miniature.data import RATE_HZ
from omni_rt.export.reference.autoencoder import (
    Conv,
    ConvTranspose,
    Oobleck,
    ResidualUnit,
    Snake,
)

_MAIN_BEND = -8.0  # log of the main path's Snakes' α and β: x + 0.0003 x²
_RESIDUAL_GAIN = 0.003
_COUPLING = 0.002  # of channels that carry nothing, against what they would weigh
_RAW_SCALE = -5.0  # of the posterior: softplus of it is 0.007
_EVEN_TO_HZ, _EMPHASIS = 125.0, 0.2
_LOUD_POWER = 0.6  # of a block's level, that it is divided by
_SOFTEST = 1e-2  # of the mean level: what is below counts no more for being soft


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearCode:
    """Blocks of samples [n, hop] → latents `blocks @ read.T` [n, count] → `latents @ write`."""

    read: Tensor  # [count, hop]
    write: Tensor  # [count, hop]

    @classmethod
    def of(cls, waves: Tensor, hop: int, count: int) -> LinearCode:
        """The strongest principal components of waves [B, n · hop].

        High frequencies and soft blocks are emphasised: overtones are softer than what they colour
        and consonants than vowels, but no less worth keeping. Latents have variance 1 on the mean;
        their spreads differ by the square root of what the components' do, so that the loudest come
        out of the noise first, and the softest are not lost.
        """
        hz = torch.fft.rfftfreq(hop, 1 / RATE_HZ).double()
        gain = hz.clamp(min=_EVEN_TO_HZ) ** _EMPHASIS
        gain /= gain.mean()

        def emphasised(rows: Tensor, power: int) -> Tensor:
            return torch.fft.irfft(torch.fft.rfft(rows) * gain**power, hop)

        blocks = emphasised(waves.reshape(-1, hop).double(), 1)
        level = blocks.square().mean(1, keepdim=True).sqrt()
        evened = blocks / (level + _SOFTEST * blocks.square().mean().sqrt()) ** _LOUD_POWER
        _, vectors = torch.linalg.eigh(evened.T @ evened)
        strongest = vectors.flip(1)[:, :count].T
        spread = (blocks @ strongest.T).square().mean(0).sqrt()
        scale = (spread / spread.mean()).sqrt()[:, None] * spread.mean()
        scale *= ((spread[:, None] / scale).square().mean()).sqrt()
        read, write = emphasised(strongest, 1) / scale, emphasised(strongest, -1) * scale
        return cls(read=read.float(), write=write.float())


def become_linear_code(vae: Oobleck, strides: tuple[int, ...], code: LinearCode) -> None:
    """Set all weights; a latent is as long as the code's blocks, the product of the strides.

    Up to the last stride, channels must suffice for the samples.
    """
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
    _set_encoder(vae, strides, code.read)
    _set_decoder(vae, strides, code.write)


def _main_path(half: nn.Module) -> list[nn.Module]:
    """All modules in order, but for those in residual units."""
    beside = {
        m for unit in half.modules() if isinstance(unit, ResidualUnit) for m in unit.modules()
    }
    return [module for module in half.modules() if module not in beside]


def _convolutions(half: nn.Module) -> list[Conv | ConvTranspose]:
    return [m for m in _main_path(half) if isinstance(m, (Conv, ConvTranspose))]


def _set_encoder(vae: Oobleck, strides: tuple[int, ...], components: Tensor) -> None:
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
    weight = _weighing(strided[-1].weight_v, components, held, stride)
    _blend(strided[-1], weight, used=len(components))
    latents = last.bias.shape[0] // 2
    kept = torch.zeros_like(last.weight_v)
    kept[:latents, :latents, 1] = torch.eye(latents)
    _blend(last, kept, used=latents)
    last.weight_g.data[latents:] *= _COUPLING
    last.bias.data[latents:] = _RAW_SCALE


def _set_decoder(vae: Oobleck, strides: tuple[int, ...], components: Tensor) -> None:
    first, *strided, last = _convolutions(vae.decoder)
    latents = first.weight_v.shape[1]
    given = torch.zeros_like(first.weight_v)
    given[:latents, :, given.shape[2] // 2] = torch.eye(latents)
    _blend(first, given, used=latents)
    first.weight_g.data[latents:] *= _COUPLING
    held = int(np.prod(strides[:-1]))
    stride = strides[-1]
    weight = _weighing(strided[0].weight_v, components, held, stride)
    _blend(strided[0], weight, used=len(components))
    for conv, stride in zip(strided[1:], reversed(strides[:-1]), strict=True):
        held //= stride
        _blend(conv, _sorting(conv.weight_v, held, stride), used=held * stride)
    both = torch.zeros_like(last.weight_v)
    both[:, 0, both.shape[2] // 2] = 1
    _blend(last, both, used=len(both))


def _weighing(like: Tensor, components: Tensor, held: int, stride: int) -> Tensor:
    """Weights [many, few, 2·stride] of sorted samples by components [n, stride · held]."""
    weight = torch.zeros_like(like)
    middle = slice(stride // 2, stride // 2 + stride)
    weight[: len(components), :held, middle] = components.unflatten(1, (stride, held)).mT
    return weight


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
