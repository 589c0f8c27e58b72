"""The text side of the Qwen2.5-Omni thinker (spec THINKER §0, §1, §2.3).

Parameter names are the checkpoint's, below `…thinker.`; only the layers that conditioning needs
are kept, so the last layer, the final norm and the head are never loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_rt.errors import ExportError


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkerSizes:
    """The text part of `config.json → thinker_config`."""

    vocabulary: int
    width: int
    inner: int
    layers: int  # N, all of them
    heads: int
    kv_heads: int
    head_width: int
    eps: float
    rope_base: float
    rope_sections: tuple[int, ...]
    max_positions: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ThinkerSizes:
        """Read a Hugging Face configuration: the whole model's, or its thinker's."""
        thinker = config.get("thinker_config", config)
        text = thinker.get("text_config") if isinstance(thinker, Mapping) else None
        if not isinstance(text, Mapping):
            raise ExportError("thinker: config.json has no thinker_config.text_config")
        try:
            rope = text.get("rope_parameters") or text["rope_scaling"]
            sizes = cls(
                vocabulary=text["vocab_size"],
                width=text["hidden_size"],
                inner=text["intermediate_size"],
                layers=text["num_hidden_layers"],
                heads=text["num_attention_heads"],
                kv_heads=text["num_key_value_heads"],
                head_width=text.get("head_dim", text["hidden_size"] // text["num_attention_heads"]),
                eps=text["rms_norm_eps"],
                rope_base=rope.get("rope_theta", text.get("rope_theta", 1e6)),
                rope_sections=tuple(rope["mrope_section"]),
                max_positions=text.get("max_position_embeddings", 32_768),
            )
        except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
            raise ExportError(f"thinker: config.json's text_config is wrong: {error}") from error
        counts = (getattr(sizes, f.name) for f in fields(sizes) if f.type == "int")
        if not all(type(count) is int and count > 0 for count in counts):
            raise ExportError(f"thinker: config.json's sizes must be positive integers: {sizes}")
        if 2 * sum(sizes.rope_sections) != sizes.head_width:
            raise ExportError(
                f"thinker: mrope_section {sizes.rope_sections} must sum to half of "
                f"head_dim {sizes.head_width}"
            )
        if text.get("use_sliding_window"):
            raise ExportError("thinker: use_sliding_window is not supported")
        return sizes


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        variance = x.float().square().mean(-1, keepdim=True)
        return self.weight * (x.float() * torch.rsqrt(variance + self.eps)).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention; q, k, v have biases, the output has none."""

    def __init__(self, sizes: ThinkerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.q_proj = nn.Linear(sizes.width, sizes.heads * sizes.head_width)
        self.k_proj = nn.Linear(sizes.width, sizes.kv_heads * sizes.head_width)
        self.v_proj = nn.Linear(sizes.width, sizes.kv_heads * sizes.head_width)
        self.o_proj = nn.Linear(sizes.heads * sizes.head_width, sizes.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
        """X [B, S, H]; cos, sin [B, 1, S, d]; bias [B, 1, S, S], 0 or very negative."""
        groups = self.sizes.heads // self.sizes.kv_heads
        q = _turn(_heads(self.q_proj(x), self.sizes.heads), cos, sin)
        k = _turn(_heads(self.k_proj(x), self.sizes.kv_heads), cos, sin)
        v = _heads(self.v_proj(x), self.sizes.kv_heads)
        k, v = (_repeat_heads(part, groups) for part in (k, v))
        scores = q @ k.transpose(-1, -2) * self.sizes.head_width**-0.5 + bias
        weights = scores.softmax(-1, dtype=torch.float32).to(x.dtype)
        return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _repeat_heads(x: Tensor, groups: int) -> Tensor:
    return x[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class MLP(nn.Module):
    def __init__(self, sizes: ThinkerSizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(sizes.width, sizes.inner, bias=False)
        self.up_proj = nn.Linear(sizes.width, sizes.inner, bias=False)
        self.down_proj = nn.Linear(sizes.inner, sizes.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, sizes: ThinkerSizes) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(sizes.width, sizes.eps)
        self.self_attn = Attention(sizes)
        self.post_attention_layernorm = RMSNorm(sizes.width, sizes.eps)
        self.mlp = MLP(sizes)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, bias)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Layers 0 … kept−1: embeddings [B, S, H] → the raw residual stream after the last one."""

    inverse_frequency: Tensor
    axis_of_frequency: Tensor

    def __init__(self, sizes: ThinkerSizes, *, kept: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(kept))
        half = sizes.head_width // 2
        exponent = torch.arange(half, dtype=torch.float32) / half
        axes = torch.arange(len(sizes.rope_sections)).repeat_interleave(
            torch.tensor(sizes.rope_sections)
        )
        self.register_buffer("inverse_frequency", sizes.rope_base**-exponent, persistent=False)
        self.register_buffer(
            "axis_of_frequency",
            F.one_hot(axes, 3).T[:, None, None].float(),
            persistent=False,
        )

    def forward(
        self, inputs_embeds: Tensor, position_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """position_ids [3, B, S] (time, height, width), attention_mask [B, S] of 0 and 1."""
        positions = (position_ids[..., None].float() * self.axis_of_frequency).sum(0)
        angle = (positions * self.inverse_frequency).repeat(1, 1, 2)[:, None]
        dtype = inputs_embeds.dtype
        cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
        bias = causal_bias(attention_mask, dtype)
        x = inputs_embeds
        for layer in self.layers:
            x = layer(x, cos, sin, bias)
        return x


class DecoderWithEmbedding(Decoder):
    def __init__(self, sizes: ThinkerSizes, *, kept: int) -> None:
        super().__init__(sizes, kept=kept)
        self.embed_tokens = nn.Embedding(sizes.vocabulary, sizes.width)


def causal_bias(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, S] of 0 and 1 → [B, 1, S, S]: 0 where query i may see key j ≤ i, very negative else."""
    index = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    visible = (index[None, :] <= index[:, None]) & (attention_mask[:, None, None, :] > 0)
    hidden = torch.full((), -1e4 if dtype == torch.float16 else -1e9, dtype=dtype)
    return torch.where(visible, torch.zeros((), dtype=dtype), hidden)


class Thinker(nn.Module):
    """Token ids → the hidden states that condition the transformer."""

    def __init__(self, sizes: ThinkerSizes, *, kept: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.model = DecoderWithEmbedding(sizes, kept=kept)

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.model.embed_tokens(input_ids)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids [B, S] of plain text → states [B, S, H]."""
        batch, length = input_ids.shape
        positions = torch.arange(length).expand(3, batch, length)
        mask = torch.ones(batch, length, dtype=torch.int64)
        return self.model(self.embed(input_ids), positions, mask)


def kept_layers(sizes: ThinkerSizes, layer_index: int) -> int:
    """How many layers `hidden_states[layer_index]` needs (spec THINKER §2.3)."""
    kept = sizes.layers + 1 + layer_index
    if not 0 < kept < sizes.layers:
        raise ExportError(
            f"thinker: layer_idx {layer_index} is outside a model of {sizes.layers} layers"
        )
    return kept
