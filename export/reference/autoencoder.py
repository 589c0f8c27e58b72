"""The Oobleck variational autoencoder, both halves (spec UPSTREAM §6).

Module and parameter names are the checkpoint's, below `pretransform.model.`: weight-normed
convolutions keep the pair `weight_g`, `weight_v`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_rt.export.config import OobleckConfig


def weight_norm(g: Tensor, v: Tensor) -> Tensor:
    """W = g·v/‖v‖, the norm over all axes but the first."""
    return g * v / v.flatten(1).norm(dim=1)[:, None, None]


class Conv(nn.Module):
    """Weight-normed convolution; a stride halves as many times as it says, `same` otherwise."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.empty(outputs, 1, 1))
        self.weight_v = nn.Parameter(torch.empty(outputs, inputs, kernel))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.stride, self.dilation = stride, dilation
        self.padding = dilation * (kernel // 2) if stride == 1 else -(-stride // 2)

    def forward(self, x: Tensor) -> Tensor:
        weight = weight_norm(self.weight_g, self.weight_v)
        return F.conv1d(
            x, weight, self.bias, self.stride, padding=self.padding, dilation=self.dilation
        )

    def plain(self) -> nn.Conv1d:
        """The same convolution with one `weight`, whose values are not set."""
        outputs, inputs, kernel = self.weight_v.shape
        return nn.Conv1d(
            inputs,
            outputs,
            kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            bias=self.bias is not None,
        )


class ConvTranspose(nn.Module):
    """Weight-normed transposed convolution, kernel 2·stride; the norm is per INPUT channel."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.empty(inputs, 1, 1))
        self.weight_v = nn.Parameter(torch.empty(inputs, outputs, 2 * stride))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.stride, self.padding = stride, -(-stride // 2)

    def forward(self, x: Tensor) -> Tensor:
        weight = weight_norm(self.weight_g, self.weight_v)
        return F.conv_transpose1d(x, weight, self.bias, self.stride, self.padding)

    def plain(self) -> nn.ConvTranspose1d:
        """The same convolution with one `weight`, whose values are not set."""
        inputs, outputs, kernel = self.weight_v.shape
        return nn.ConvTranspose1d(inputs, outputs, kernel, stride=self.stride, padding=self.padding)


class Snake(nn.Module):
    """x + sin²(e^α·x)/(e^β + 1e-9), α and β per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))
        self.beta = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        s = torch.sin(x * self.alpha.exp()[:, None])
        return x + s * s / (self.beta.exp()[:, None] + 1e-9)


class Layers(nn.Module):
    """A sequence under the name `layers`, as the checkpoint nests it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ResidualUnit(Layers):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__(
            Snake(channels),
            Conv(channels, channels, 7, dilation=dilation),
            Snake(channels),
            Conv(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def _residual_units(channels: int) -> list[nn.Module]:
    return [ResidualUnit(channels, dilation) for dilation in (1, 3, 9)]


def _ladder(config: OobleckConfig) -> list[int]:
    return [m * config.channels for m in (1, *config.c_mults)]


class Encoder(Layers):
    """Audio [B, 2, samples] → [B, 2·C, L]: mean and raw scale."""

    def __init__(self, config: OobleckConfig) -> None:
        width = _ladder(config)
        stages = [
            Layers(*_residual_units(a), Snake(a), Conv(a, b, 2 * stride, stride=stride))
            for a, b, stride in zip(width, width[1:], config.strides, strict=False)
        ]
        super().__init__(
            Conv(config.audio_channels, width[0], 7),
            *stages,
            Snake(width[-1]),
            Conv(width[-1], config.latent_dim, 3),
        )


class Decoder(Layers):
    """Latents [B, C, L] → audio [B, 2, L·ratio]."""

    def __init__(self, config: OobleckConfig) -> None:
        width = _ladder(config)
        stages = [
            Layers(Snake(b), ConvTranspose(b, a, stride), *_residual_units(a))
            for a, b, stride in zip(width, width[1:], config.strides, strict=False)
        ]
        super().__init__(
            Conv(config.latent_dim, width[-1], 7),
            *reversed(stages),
            Snake(width[0]),
            Conv(width[0], config.audio_channels, 7, bias=False),
            nn.Tanh() if config.final_tanh else nn.Identity(),
        )


class Oobleck(nn.Module):
    def __init__(self, encoder: OobleckConfig, decoder: OobleckConfig, *, scale: float) -> None:
        super().__init__()
        self.encoder, self.decoder, self.scale = Encoder(encoder), Decoder(decoder), scale

    def encode(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, C, L] of the latents of a waveform [B, 2, samples]."""
        mean, raw = self.encoder(waveform).chunk(2, dim=1)
        return mean / self.scale, (F.softplus(raw) + 1e-4) / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, L] → waveform [B, 2, L·ratio], not normalised."""
        return self.decoder(latents * self.scale)
