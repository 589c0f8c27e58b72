"""Synchformer regrouped for export: frames → sync features, and whose weights it has.

Exact algebra (spec SYNCHFORMER §4.1, §4.6): the patch embedding is one matrix product, fused
projections are split so that each can be rounded, and the aggregator computes its cls row alone.
Parameters have the checkpoint's names below `vfeat_extractor.`; `qkv` is `q`, `k`, `v`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from omni_rt.contract import synchformer_ports
from omni_rt.export.checkpoint import parameters_on_meta
from omni_rt.export.graphs import Stage
from omni_rt.export.reference.dit import merge_heads, split_heads
from omni_rt.export.reference.synchformer import (
    COLOURS,
    VISUAL,
    Axis,
    Block,
    SelfAttention,
    SpatialAggregator,
    Synchformer,
    SynchformerSizes,
    divided_attention,
)


class SplitDividedAttention(nn.Module):
    """`DividedAttention` with the fused projection split."""

    def __init__(self, sizes: SynchformerSizes, across: Axis) -> None:
        super().__init__()
        self.heads, self.tubelets, self.across = sizes.heads, sizes.tubelets, across
        self.scale = (sizes.width // sizes.heads) ** -0.5
        self.q = nn.Linear(sizes.width, sizes.width)
        self.k = nn.Linear(sizes.width, sizes.width)
        self.v = nn.Linear(sizes.width, sizes.width)
        self.proj = nn.Linear(sizes.width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        """X [S, 1 + T·N, D]."""
        q, k, v = (split_heads(part(x), self.heads) for part in (self.q, self.k, self.v))
        out = divided_attention(q * self.scale, k, v, tubelets=self.tubelets, across=self.across)
        return self.proj(merge_heads(out))


class SplitBlock(Block):
    attention = SplitDividedAttention


def cls_attention(attention: SelfAttention, cls: Tensor, rows: Tensor) -> Tensor:
    """What `attention` gives the constant row cls [1, 1, D] of rows [R, n, D] → [R, 1, D].

    Per head, softmax((W_kᵀq)·rows) weighs the rows, and W_v is applied to their mean; the bias of
    the keys adds the same to every score and cancels.
    """
    heads = attention.heads
    to_q, to_k, to_v = attention.in_proj_weight.chunk(3)
    q_bias, _, v_bias = attention.in_proj_bias.chunk(3)
    q = F.linear(cls, to_q, q_bias).unflatten(-1, (heads, -1))[0]  # [1, H, d]
    q = (q * q.shape[-1] ** -0.5).transpose(0, 1)  # [H, 1, d]
    directions = (q @ to_k.unflatten(0, (heads, -1)))[:, 0]  # [H, D]; constant, as all above
    weights = (rows @ directions.T).softmax(1)  # [R, n, H]
    means = (weights.transpose(1, 2) @ rows).transpose(0, 1)  # [H, R, D]
    values = means @ to_v.unflatten(0, (heads, -1)).transpose(1, 2)  # [H, R, d]
    return attention.out_proj(values.transpose(0, 1).flatten(1)[:, None] + v_bias)


class ClsAggregator(SpatialAggregator):
    """`SpatialAggregator` of the one row that is used."""

    def forward(self, patches: Tensor) -> Tensor:
        """Patches [R, N, D] → [R, D]."""
        rows = self.norm1(self.rows(patches))
        x = self.cls_token + cls_attention(self.self_attn, self.norm1(self.cls_token), rows)
        x = x + self.mlp(self.norm2(x))
        return x[:, 0]


class MatrixPatchEmbed(nn.Module):
    """`PatchEmbed3d` as one matrix product; a row is ordered (colour, frame, y, x)."""

    def __init__(self, sizes: SynchformerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        pixels = COLOURS * sizes.tubelet_frames * sizes.patch_px**2
        self.proj = nn.Linear(pixels, sizes.width)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [S, tau·T, 3, px, px] → [S, T·N, D]."""
        s = self.sizes
        cut = frames.reshape(-1, s.tubelet_frames, COLOURS, s.grid, s.patch_px, s.grid, s.patch_px)
        rows = cut.permute(0, 3, 5, 2, 1, 4, 6)  # [S·T, y, x, colour, tau, p, p]
        return self.proj(rows.reshape(-1, s.tubelets * s.patches, self.proj.in_features))


class SynchformerStage(Synchformer):
    """Frames [S, tau·T, 3, px, px] → sync [T·S, D], regrouped."""

    patch_embedding = MatrixPatchEmbed
    block = SplitBlock
    aggregator = ClsAggregator


def synchformer_stage(sizes: SynchformerSizes) -> Stage:
    """The stage, without weight storage."""
    with parameters_on_meta():
        module = SynchformerStage(sizes)
    return Stage(
        name="synchformer",
        module=module.eval().requires_grad_(False),
        ports=synchformer_ports(sizes.width),
        official_names={"": VISUAL},
        examples={"S": 3},
        data_file="synchformer.data",
    )
