"""The diffusion transformer, one evaluation at a time, unregrouped (spec UPSTREAM §3).

Module and parameter names are the checkpoint's, below `model.model.`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class DitSizes:
    """What the configuration and the tensors' shapes say about the transformer."""

    width: int  # D
    depth: int
    heads: int  # H
    latent_channels: int  # C
    cond_width: int  # of the conditioners' tokens, officially 768
    time_features: int = 128  # rows of the Fourier matrix: half the features

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def rotary_width(self) -> int:
        """How many of a head's dimensions rotate: half of them, at least 32."""
        return max(self.head_width // 2, 32)


class LayerNorm(nn.Module):
    """LayerNorm, eps 1e-5, whose shift is a buffer of zeros in the checkpoint."""

    beta: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class FourierFeatures(nn.Module):
    """t [R] → [cos 2πtw | sin 2πtw], [R, 2·rows]."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, 1))

    def forward(self, t: Tensor) -> Tensor:
        phase = 2 * math.pi * t[:, None] @ self.weight.T
        return torch.cat([phase.cos(), phase.sin()], dim=-1)


class RotaryAngles(nn.Module):
    """Angles of positions 0 … n−1, [n, rot/2], base 10000."""

    inv_freq: Tensor

    def __init__(self, rotary_width: int) -> None:
        super().__init__()
        exponent = torch.arange(0, rotary_width, 2, dtype=torch.float32) / rotary_width
        self.register_buffer("inv_freq", 10_000.0**-exponent)

    def forward(self, positions: int) -> Tensor:
        index = torch.arange(positions, dtype=torch.float32, device=self.inv_freq.device)
        return index[:, None] * self.inv_freq


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary embedding of the first 2·k dims of x [R, H, n, d] by angles [n, k], half-split."""
    half = angles.shape[-1]
    cos, sin = angles.cos(), angles.sin()
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[R, n, H·d] → [R, H, n, d]; the head index is the slow one."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[R, H, n, d] → [R, n, H·d]."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Full attention to all tokens with rotary q and k; no mask ever reaches it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, angles: Tensor, last: int) -> Tensor:
        """Of the last so many tokens, [R, last, D]."""
        q, k, v = (split_heads(part, self.heads) for part in self.to_qkv(x).chunk(3, dim=-1))
        q = rotate(q[:, :, -last:], angles[-last:])
        out = F.scaled_dot_product_attention(q, rotate(k, angles), v)
        return self.to_out(merge_heads(out))


class CrossAttention(nn.Module):
    """Attention of x to the context [R, P, D], mask [R, P] True where it may attend."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        q = split_heads(self.to_q(x), self.heads)
        k, v = (split_heads(part, self.heads) for part in self.to_kv(context).chunk(2, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.to_out(merge_heads(out))


class GatedLinear(nn.Module):
    """One projection, value half times SiLU of the gate half."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.silu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ff = nn.ModuleDict(
            {"0": GatedLinear(width, 4 * width), "2": nn.Linear(4 * width, width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.ff["2"](self.ff["0"](x))


class Block(nn.Module):
    """Pre-norm residual block: self-attention, cross-attention, feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.pre_norm = LayerNorm(width)
        self.self_attn = SelfAttention(width, heads)
        self.cross_attend_norm = LayerNorm(width)
        self.cross_attn = CrossAttention(width, heads)
        self.ff_norm = LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(
        self, x: Tensor, angles: Tensor, context: Tensor, mask: Tensor, last: int
    ) -> Tensor:
        """The last so many tokens, [R, last, D]: a block's tokens meet in self-attention alone."""
        x = x[:, -last:] + self.self_attn(self.pre_norm(x), angles, last)
        x = x + self.cross_attn(self.cross_attend_norm(x), context, mask)
        return x + self.ff(self.ff_norm(x))


class Transformer(nn.Module):
    def __init__(self, sizes: DitSizes) -> None:
        super().__init__()
        self.project_in = nn.Linear(sizes.latent_channels, sizes.width, bias=False)
        self.project_out = nn.Linear(sizes.width, sizes.latent_channels, bias=False)
        self.rotary_pos_emb = RotaryAngles(sizes.rotary_width)
        self.layers = nn.ModuleList(Block(sizes.width, sizes.heads) for _ in range(sizes.depth))


def two_layer(inputs: int, width: int, *, bias: bool) -> nn.Sequential:
    """Linear, SiLU, Linear: the form of the three embeddings."""
    return nn.Sequential(
        nn.Linear(inputs, width, bias=bias), nn.SiLU(), nn.Linear(width, width, bias=bias)
    )


class DiT(nn.Module):
    """Velocity of the flow at (x, t) under a context and low-level tokens."""

    def __init__(self, sizes: DitSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.timestep_features = FourierFeatures(sizes.time_features)
        self.to_timestep_embed = two_layer(2 * sizes.time_features, sizes.width, bias=True)
        self.to_cond_embed = two_layer(sizes.cond_width, sizes.width, bias=False)
        self.to_global_embed = two_layer(sizes.cond_width, sizes.width, bias=False)
        self.transformer = Transformer(sizes)
        channels = sizes.latent_channels
        self.preprocess_conv = nn.Conv1d(channels, channels, 1, bias=False)
        self.postprocess_conv = nn.Conv1d(channels, channels, 1, bias=False)

    def time_embedding(self, t: Tensor) -> Tensor:
        """τ: t [R] → [R, D]."""
        return self.to_timestep_embed(self.timestep_features(t))

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor, mask: Tensor, low_level: Tensor
    ) -> Tensor:
        """X [R,C,L], t [R], context [R,P,768], mask [R,P] bool, low_level [R,N,768] → v [R,C,L]."""
        prepend = self.to_global_embed(low_level) + self.time_embedding(t)[:, None]
        x = x + self.preprocess_conv(x)
        tokens = torch.cat([prepend, self.transformer.project_in(x.transpose(1, 2))], dim=1)
        angles = self.transformer.rotary_pos_emb(tokens.shape[1])
        embedded = self.to_cond_embed(context)
        made = tokens_made(tokens.shape[1], x.shape[2], depth=self.sizes.depth)
        for layer, last in zip(self.transformer.layers, made, strict=True):
            tokens = layer(tokens, angles, embedded, mask, last)
        y = self.transformer.project_out(tokens).transpose(1, 2)
        return y + self.postprocess_conv(y)


def tokens_made(tokens: int, latents: int, *, depth: int) -> list[int]:
    """How many of the last tokens each block makes: all but the last block, then the latents'.

    What the last block would make of the prepended tokens, nothing reads.
    """
    return [tokens] * (depth - 1) + [latents]


def rescale_guidance(guided: Tensor, conditional: Tensor, phi: float) -> Tensor:
    """φ·v·std(c)/std(v) + (1−φ)·v; std over channels, unbiased, per frame (spec UPSTREAM §3)."""
    ratio = conditional.std(dim=1, keepdim=True) / guided.std(dim=1, keepdim=True)
    return phi * guided * ratio + (1 - phi) * guided


def guided_velocity(
    dit: DiT,
    x: Tensor,
    t: Tensor,
    conditioning: Sequence[Tensor],
    *,
    cfg_scale: float,
    rescale: float = 0.0,
) -> Tensor:
    """V = u + s·(c − u) as the original batches it; `conditioning` is (context, mask, low_level).

    The unconditional half has a context of zeros, the same mask and the same low-level tokens.
    With s = 1 only the conditional velocity is evaluated.
    """
    context, mask, low_level = conditioning
    if cfg_scale == 1.0:
        return dit(x, t, context, mask, low_level)
    both = dit(
        torch.cat([x, x]),
        torch.cat([t, t]),
        torch.cat([context, torch.zeros_like(context)]),
        torch.cat([mask, mask]),
        torch.cat([low_level, low_level]),
    )
    conditional, unconditional = both.chunk(2)
    guided = unconditional + cfg_scale * (conditional - unconditional)
    return rescale_guidance(guided, conditional, rescale) if rescale else guided
