"""The thinker's graphs: fixed chunks and grids with masks instead of data-dependent sizes.

Spec THINKER §2 and §6. Chunks of audio and grids of video are independent, so they are the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_rt.export.reference import thinker_towers as towers
from omni_rt.export.reference.thinker import Cache, Decoder, RMSNorm, kept_layers
from omni_rt.export.reference.thinker_config import ThinkerSizes

_MASKED = -1e4  # far enough below any score, and finite in fp16


class ThinkerEmbed(nn.Module):
    """Token ids [B, S] → embeddings [B, S, H]."""

    def __init__(self, sizes: ThinkerSizes) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(sizes.vocabulary, sizes.width)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.embed_tokens(input_ids)


class ThinkerCond(nn.Module):
    """Embeddings → the raw hidden states that condition the transformer (N−1 layers officially)."""

    def __init__(self, sizes: ThinkerSizes, layer_index: int) -> None:
        super().__init__()
        self.model = Decoder(sizes, kept=kept_layers(sizes, layer_index))

    def forward(
        self, inputs_embeds: Tensor, position_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """inputs_embeds [B,S,H], position_ids [3,B,S], attention_mask [B,S] → hidden [B,S,H]."""
        return self.model(inputs_embeds, position_ids, attention_mask)


class _SpeakingDecoder(Decoder):
    def __init__(self, sizes: ThinkerSizes) -> None:
        super().__init__(sizes, kept=sizes.layers)
        self.norm = RMSNorm(sizes.width, sizes.eps)


class ThinkerLm(nn.Module):
    """S new tokens after P cached ones → logits of the last, and the cache with the new ones."""

    def __init__(self, sizes: ThinkerSizes) -> None:
        super().__init__()
        self.model = _SpeakingDecoder(sizes)
        self.lm_head = nn.Linear(sizes.width, sizes.vocabulary, bias=False)

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        cache: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """inputs_embeds [B,S,H], position_ids [3,B,S], attention_mask [B,P+S], keys and values.

        → logits [B,1,vocabulary], present_k_00, present_v_00 … [B,kv_heads,P+S,d].
        """
        torch._check(attention_mask.shape[1] == cache[0].shape[2] + inputs_embeds.shape[1])
        past: list[Cache] = list(zip(cache[::2], cache[1::2], strict=True))
        x, present = self.model.with_cache(inputs_embeds, position_ids, attention_mask, past)
        logits = self.lm_head(self.model.norm(x[:, -1:]))
        return (logits, *(part for pair in present for part in pair))


class AudioTower(towers.AudioTower):
    """Chunks of log-mel, the last one padded with zeros, → 50 rows each, zero beyond its tokens."""

    def forward(self, mel: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        """Mel [C, bands, 200], lengths [C] → [C, 50, H]."""
        frames = torch.arange(self.sizes.chunk_frames)[None, :] < lengths[:, None]
        valid = frames.to(mel.dtype)
        x = F.gelu(self.conv1(mel)) * valid[:, None]
        x = F.gelu(self.conv2(x)).transpose(1, 2) + self.positions
        bias = ((1 - valid[:, ::2]) * _MASKED)[:, None, None]
        for layer in self.layers:
            x = layer(x, bias)
        pairs = x.unflatten(1, (-1, 2)).mean(2)
        return self.proj(self.ln_post(pairs)) * valid[:, 2::4, None]


class VisionTower(towers.VisionTower):
    """Grids of patches in their order, windows by a mask, so that nothing is permuted."""

    def forward(self, pixels: Tensor, pos_hw: Tensor, window_id: Tensor) -> Tensor:
        """Pixels [g, n, values], pos_hw [n, 2], window_id [n] → [g, n/4, H]."""
        x = self.patch_embed(pixels)
        cos, sin = self.angles(pos_hw, x.dtype)
        apart = (window_id[:, None] != window_id[None, :]).to(x.dtype) * _MASKED
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, None if i in self.sizes.full_attention else apart)
        return self.merger(x)
