"""The thinker's ears and eyes (spec THINKER §2.1, §2.2), one chunk and one window at a time.

Written as the original computes: each chunk at its own length, each window of patches by itself.
The graphs do the same with masks (`export/thinker_stages.py`), which parity proves.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_rt.export.reference.dit import merge_heads, split_heads
from omni_rt.export.reference.thinker import RMSNorm, turn
from omni_rt.export.reference.thinker_config import AudioTowerSizes, VisionTowerSizes


class AudioAttention(nn.Module):
    """Attention of an audio layer; the keys' projection has no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """X [C, n, W]; bias [C, 1, 1, n] or None."""
        q, k, v = (
            split_heads(project(x), self.heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = q * self.scale @ k.transpose(-1, -2)
        weights = (scores if bias is None else scores + bias).softmax(-1)
        return self.out_proj(merge_heads(weights @ v))


class AudioLayer(nn.Module):
    def __init__(self, sizes: AudioTowerSizes) -> None:
        super().__init__()
        self.self_attn = AudioAttention(sizes.width, sizes.heads)
        self.self_attn_layer_norm = nn.LayerNorm(sizes.width)
        self.fc1 = nn.Linear(sizes.width, sizes.inner)
        self.fc2 = nn.Linear(sizes.inner, sizes.width)
        self.final_layer_norm = nn.LayerNorm(sizes.width)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x), bias)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


def sinusoids(length: int, width: int) -> Tensor:
    """[length, width]: sines, then cosines, of positions (Whisper's table)."""
    half = width // 2
    speed = torch.exp(-torch.arange(half) * (math.log(10_000) / (half - 1)))
    angle = torch.arange(length)[:, None] * speed[None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class AudioTower(nn.Module):
    """Log-mel → tokens of the thinker's width, 25 per second."""

    positions: Tensor

    def __init__(self, sizes: AudioTowerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.conv1 = nn.Conv1d(sizes.mel_bands, sizes.width, 3, padding=1)
        self.conv2 = nn.Conv1d(sizes.width, sizes.width, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(AudioLayer(sizes) for _ in range(sizes.layers))
        self.ln_post = nn.LayerNorm(sizes.width)
        self.proj = nn.Linear(sizes.width, sizes.output_width)
        table = sinusoids(sizes.half_window, sizes.width)
        self.register_buffer("positions", table, persistent=False)

    def forward(self, mel: Tensor) -> Tensor:
        """One clip's log-mel [bands, L] → [n(L), H]."""
        rows = torch.cat([self._chunk(c) for c in mel.split(self.sizes.chunk_frames, dim=1)])
        pairs = rows[: len(rows) // 2 * 2].unflatten(0, (-1, 2)).mean(1)
        return self.proj(self.ln_post(pairs))

    def _chunk(self, mel: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel[None])))).transpose(1, 2)
        x = x + self.positions[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, None)
        return x[0]


class VisionAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor | None) -> Tensor:
        """X [g, n, W]; cos, sin [n, d]; bias [n, n] or None."""
        q, k, v = (split_heads(project(x), self.heads) for project in (self.q, self.k, self.v))
        scores = turn(q, cos, sin) * self.scale @ turn(k, cos, sin).transpose(-1, -2)
        weights = (scores if bias is None else scores + bias).softmax(-1)
        return self.proj(merge_heads(weights @ v))


class VisionMLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner)
        self.up_proj = nn.Linear(width, inner)
        self.down_proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class VisionBlock(nn.Module):
    def __init__(self, sizes: VisionTowerSizes) -> None:
        super().__init__()
        self.norm1 = RMSNorm(sizes.width, 1e-6)
        self.norm2 = RMSNorm(sizes.width, 1e-6)
        self.attn = VisionAttention(sizes.width, sizes.heads)
        self.mlp = VisionMLP(sizes.width, sizes.inner)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin, bias)
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Module):
    """A three-dimensional convolution whose kernel is the patch: one matrix product."""

    def __init__(self, sizes: VisionTowerSizes) -> None:
        super().__init__()
        self.proj = nn.Linear(sizes.patch_values, sizes.width, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels)


class Merger(nn.Module):
    """Four neighbouring patches → one token of the thinker's width."""

    def __init__(self, sizes: VisionTowerSizes) -> None:
        super().__init__()
        self.merged = sizes.merge**2
        merged_width = sizes.width * self.merged
        self.ln_q = RMSNorm(sizes.width, 1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(merged_width, merged_width),
            nn.GELU(),
            nn.Linear(merged_width, sizes.output_width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[g, n, W] → [g, n/4, H]."""
        return self.mlp(self.ln_q(x).reshape(x.shape[0], -1, self.merged * x.shape[2]))


class VisionTower(nn.Module):
    """Patches of temporal grids → tokens of the thinker's width."""

    inverse_frequency: Tensor

    def __init__(self, sizes: VisionTowerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.patch_embed = PatchEmbedding(sizes)
        self.blocks = nn.ModuleList(VisionBlock(sizes) for _ in range(sizes.layers))
        self.merger = Merger(sizes)
        quarter = sizes.width // sizes.heads // 4
        exponent = torch.arange(quarter, dtype=torch.float32) / quarter
        self.register_buffer("inverse_frequency", 10_000.0**-exponent, persistent=False)

    def angles(self, pos_hw: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines [n, d] of the patches' rows and columns [n, 2]."""
        angle = (pos_hw[..., None].float() * self.inverse_frequency).flatten(1).repeat(1, 2)
        return angle.cos().to(dtype), angle.sin().to(dtype)

    def forward(self, pixels: Tensor, pos_hw: Tensor, window_id: Tensor) -> Tensor:
        """Pixels [g, n, values], pos_hw [n, 2], window_id [n] → [g, n/4, H]."""
        x = self.patch_embed(pixels)
        cos, sin = self.angles(pos_hw, x.dtype)
        windows = [torch.nonzero(window_id == i)[:, 0] for i in window_id.unique()]
        for i, block in enumerate(self.blocks):
            if i in self.sizes.full_attention:
                x = block(x, cos, sin, None)
                continue
            out = torch.empty_like(x)
            for own in windows:
                out[:, own] = block(x[:, own], cos[own], sin[own], None)
            x = out
        return self.merger(x)
