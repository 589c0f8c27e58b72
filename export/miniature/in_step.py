"""Heads that begin by attending at a distance: where a latent's own moment is in another sense."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omni_rt.export.reference.dit import Block, Transformer

_CONSTANT = 3.0  # the length of what the first block writes everywhere
_LOUDNESS = (1.2, 1.6)  # about: the RMS of what the second and the third block read
_SHARES = (0.22, 0.18, 0.12, 0.1, 0.13, 0.15, 0.1)  # of the frequencies, in how near a token is
_SHARPNESS = 24.0  # logits


@torch.no_grad()
def attend_in_step(transformer: Transformer, distances: Sequence[int]) -> None:
    """Let a head of every block but the first begin by looking so many tokens back, for each.

    Rotary attention finds a distance by queries and keys that are the same everywhere. Latents are
    noise at first, whose products have no mean; so the first block writes a constant, in a
    direction that noise does not reach.
    """
    first, *others = transformer.layers
    assert isinstance(first, Block)
    constant = torch.linalg.svd(transformer.project_in.weight).U[:, -1]
    bias = first.get_parameter("ff.ff.2.bias")
    bias.sub_(constant * (constant @ bias)).add_(_CONSTANT * constant)
    for layer, loudness in zip(others, _LOUDNESS, strict=True):
        assert isinstance(layer, Block)
        read = constant * loudness / _CONSTANT / layer.pre_norm.gamma
        width = layer.self_attn.to_qkv.in_features // layer.self_attn.heads
        queries, keys, _ = layer.self_attn.to_qkv.weight.chunk(3)
        for head, distance in enumerate(distances):
            query, key = looking_back(distance, width, transformer.rotary_pos_emb.inv_freq)
            own = slice(head * width, (head + 1) * width)
            queries[own] = query[:, None] * read
            keys[own] = key[:, None] * read


def looking_back(distance: int, width: int, radians: Tensor) -> tuple[Tensor, Tensor]:
    """A query and a key [width] whose product is the larger, the nearer they are to a distance."""
    shares = torch.zeros_like(radians)
    shares[: len(_SHARES)] = torch.tensor(_SHARES)
    size = (_SHARPNESS * width**0.5 * shares).sqrt()
    angle = distance * radians
    rest = torch.zeros(width - 2 * len(radians))
    query = torch.cat([size, torch.zeros_like(size), rest])
    key = torch.cat([size * angle.cos(), size * angle.sin(), rest])
    return query, key
