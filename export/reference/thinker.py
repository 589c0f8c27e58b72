"""The text side of the Qwen2.5-Omni thinker (spec THINKER §0, §1, §2.3).

Parameter names are the checkpoint's, below `…thinker.`. What conditions the transformer needs
neither the last layer nor the final norm nor the head; what answers questions needs them all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_rt.errors import ExportError
from omni_rt.export.reference.dit import merge_heads, split_heads
from omni_rt.export.reference.thinker_config import ThinkerSizes

Cache = tuple[Tensor, Tensor]  # keys (rotated) and values, [B, kv_heads, K, d] each


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

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, past: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        """X [B, S, H]; cos, sin [B, 1, S, d]; bias [B, 1, S, K], 0 or very negative.

        Query heads that share keys are rows of one product, so keys are never repeated.
        """
        sizes, groups = self.sizes, self.sizes.heads // self.sizes.kv_heads
        q = turn(split_heads(self.q_proj(x), sizes.heads), cos, sin)
        k = turn(split_heads(self.k_proj(x), sizes.kv_heads), cos, sin)
        v = split_heads(self.v_proj(x), sizes.kv_heads)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        rows = q.unflatten(1, (sizes.kv_heads, groups)).flatten(2, 3)
        scores = rows @ k.transpose(-1, -2) * sizes.head_width**-0.5
        scores = scores.unflatten(2, (groups, x.shape[1])) + bias[:, :, None]
        weights = scores.softmax(-1, dtype=torch.float32).to(x.dtype)
        mixed = weights.flatten(2, 3) @ v
        out = mixed.unflatten(2, (groups, x.shape[1])).flatten(1, 2)
        return self.o_proj(merge_heads(out)), (k, v)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotary embedding of x [..., n, d]; cos, sin broadcast to it."""
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

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, past: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        """The layer's output, and its keys and values with those of the past before them."""
        attended, present = self.self_attn(self.input_layernorm(x), cos, sin, bias, past)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), present


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
        return self.with_cache(inputs_embeds, position_ids, attention_mask, None)[0]

    def with_cache(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        past: list[Cache] | None,
        *,
        layers: int | None = None,
    ) -> tuple[Tensor, list[Cache]]:
        """S new tokens after those of `past`; attention_mask [B, K] covers both.

        `layers` stops after so many.
        """
        positions = (position_ids[..., None].float() * self.axis_of_frequency).sum(0)
        angle = (positions * self.inverse_frequency).repeat(1, 1, 2)[:, None]
        dtype = inputs_embeds.dtype
        cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
        bias = causal_bias(attention_mask, inputs_embeds.shape[1], dtype)
        x, present = inputs_embeds, []
        for i, layer in enumerate(self.layers[:layers]):
            x, cache = layer(x, cos, sin, bias, None if past is None else past[i])
            present.append(cache)
        return x, present


class DecoderWithEmbedding(Decoder):
    """The decoder, the embedding before it and, where it speaks, the norm after it."""

    def __init__(self, sizes: ThinkerSizes, *, kept: int, normed: bool) -> None:
        super().__init__(sizes, kept=kept)
        self.embed_tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        if normed:
            self.norm = RMSNorm(sizes.width, sizes.eps)


def causal_bias(attention_mask: Tensor, queries: int, dtype: torch.dtype) -> Tensor:
    """[B, K] of 0 and 1 → [B, 1, S, K]: 0 where query i may see key j ≤ i + K − S, else −1e9."""
    keys = attention_mask.shape[1]
    of_key = torch.arange(keys, device=attention_mask.device)
    of_query = torch.arange(queries, device=attention_mask.device) + (keys - queries)
    visible = (of_key[None, :] <= of_query[:, None]) & (attention_mask[:, None, None, :] > 0)
    hidden = torch.full((), -1e4 if dtype == torch.float16 else -1e9, dtype=dtype)
    return torch.where(visible, torch.zeros((), dtype=dtype), hidden)


class Thinker(nn.Module):
    """The text model; with `speaks` also its final norm and its head."""

    def __init__(self, sizes: ThinkerSizes, *, kept: int, speaks: bool = False) -> None:
        super().__init__()
        self.sizes = sizes
        self.model = DecoderWithEmbedding(sizes, kept=kept, normed=speaks)
        if speaks and not sizes.tied:
            self.lm_head = nn.Linear(sizes.width, sizes.vocabulary, bias=False)

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.model.embed_tokens(input_ids)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids [B, S] of plain text → states [B, S, H]."""
        batch, length = input_ids.shape
        positions = torch.arange(length).expand(3, batch, length)
        mask = torch.ones(batch, length, dtype=torch.int64)
        return self.model(self.embed(input_ids), positions, mask)

    def logits(self, states: Tensor) -> Tensor:
        """Raw states [B, S, H] of the last layer → logits [B, S, vocabulary]."""
        head = self.model.embed_tokens if self.sizes.tied else self.lm_head
        return F.linear(self.model.norm(states), head.weight)


def kept_layers(sizes: ThinkerSizes, layer_index: int) -> int:
    """How many layers `hidden_states[layer_index]` needs (spec THINKER §2.3)."""
    kept = sizes.layers + 1 + layer_index
    if not 0 < kept < sizes.layers:
        raise ExportError(
            f"thinker: layer_idx {layer_index} is outside a model of {sizes.layers} layers"
        )
    return kept
