"""Synchformer's visual branch: frames → sync features, unregrouped (spec SYNCHFORMER §3-§5).

Parameter names are the checkpoint's, below `vfeat_extractor.`. S segments of T tubelets of N
patches; D width, H heads of width d.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_rt.errors import ExportError
from omni_rt.export.checkpoint import (
    LazyTensor,
    check_names_and_shapes,
    load_into,
    open_checkpoint,
    parameters_on_meta,
)
from omni_rt.export.reference.dit import merge_heads, split_heads

VISUAL = "vfeat_extractor."
COLOURS = 3
NORM_EPS = 1e-6
Axis = Literal["time", "space"]

_NEVER_APPLIED = VISUAL + "patch_embed.proj."  # the parent model's 2-D patch embedding
_BLOCK = re.compile(re.escape(VISUAL) + r"blocks\.(\d+)\.")
_RANKS: Mapping[str, int] = {  # of the tensors that the sizes are read from
    "pos_embed": 3,
    "temp_embed": 3,
    "patch_embed_3d.proj.weight": 5,
    "blocks.0.mlp.fc1.weight": 2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SynchformerSizes:
    """What the tensors' shapes say about the network, and the head count, which they do not."""

    width: int  # D
    heads: int  # H
    depth: int
    inner: int  # of the MLPs
    tubelets: int  # T
    patches: int  # N, of a tubelet
    patch_px: int  # p
    tubelet_frames: int  # tau

    @property
    def grid(self) -> int:
        """Patches along a side of a frame."""
        return math.isqrt(self.patches)

    @property
    def frame_px(self) -> int:
        """Height and width of a frame."""
        return self.patch_px * self.grid

    @property
    def frames(self) -> int:
        """Frames of a segment."""
        return self.tubelet_frames * self.tubelets

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, LazyTensor], *, heads: int) -> SynchformerSizes:
        """Sizes from the shapes of tensors by official name.

        Raises ExportError naming what is missing, has another rank or does not fit.
        """
        shapes = _size_shapes(tensors)
        width, _, tubelet_frames, patch_px, _ = shapes["patch_embed_3d.proj.weight"]
        patches = shapes["pos_embed"][1] - 1
        if patches < 1 or math.isqrt(patches) ** 2 != patches:
            raise ExportError(f"synchformer: {VISUAL}pos_embed holds {patches} patches: no square")
        if heads < 1 or width % heads:
            raise ExportError(f"synchformer: {heads} heads do not divide the width of {width}")
        return cls(
            width=width,
            heads=heads,
            depth=len({m[1] for name in tensors if (m := _BLOCK.match(name))}),
            inner=shapes["blocks.0.mlp.fc1.weight"][0],
            tubelets=shapes["temp_embed"][1],
            patches=patches,
            patch_px=patch_px,
            tubelet_frames=tubelet_frames,
        )


def _size_shapes(tensors: Mapping[str, LazyTensor]) -> dict[str, tuple[int, ...]]:
    found = {name: tensors[VISUAL + name].shape for name in _RANKS if VISUAL + name in tensors}
    problems = [f"missing {VISUAL}{name}" for name in _RANKS if name not in found]
    problems += [
        f"{VISUAL}{name} has shape {list(shape)}, expected {_RANKS[name]} axes"
        for name, shape in found.items()
        if len(shape) != _RANKS[name] or 0 in shape
    ]
    if problems:
        raise ExportError("synchformer: not in the official format: " + "; ".join(problems))
    return found


class PatchEmbed3d(nn.Module):
    """Tubelets of tau × p × p pixels → tokens, time-major (§4.1)."""

    def __init__(self, sizes: SynchformerSizes) -> None:
        super().__init__()
        kernel = (sizes.tubelet_frames, sizes.patch_px, sizes.patch_px)
        self.proj = nn.Conv3d(COLOURS, sizes.width, kernel, stride=kernel)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [S, tau·T, 3, px, px] → [S, T·N, D]."""
        return self.proj(frames.transpose(1, 2)).flatten(2).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention; q [..., n, d] is already scaled, k and v [..., m, d]."""
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def divided_attention(q: Tensor, k: Tensor, v: Tensor, *, tubelets: int, across: Axis) -> Tensor:
    """The cls row attends to all rows, a patch to cls and its own group (§4.4).

    A group is a patch's position at all times (`time`) or all patches of its tubelet (`space`).
    q (scaled), k, v and the result: [S, H, 1 + T·N, d].
    """
    cls = attend(q[:, :, :1], k, v)
    queries, keys, values = (_groups(x[:, :, 1:], tubelets, across) for x in (q, k, v))
    patches = attend(queries, _after(k[:, :, :1], keys), _after(v[:, :, :1], values))
    if across == "time":
        patches = patches.transpose(2, 3)
    return torch.cat([cls, patches.flatten(2, 3)], dim=2)


def _groups(patches: Tensor, tubelets: int, across: Axis) -> Tensor:
    """[S, H, T·N, d] → [S, H, N, T, d] (time) or [S, H, T, N, d] (space)."""
    by_time = patches.unflatten(2, (tubelets, -1))
    return by_time.transpose(2, 3) if across == "time" else by_time


def _after(cls: Tensor, groups: Tensor) -> Tensor:
    """The row cls [S, H, 1, d] before every group [S, H, G, n, d]."""
    repeated = cls[:, :, None].expand(-1, -1, groups.shape[2], -1, -1)
    return torch.cat([repeated, groups], dim=3)


class DividedAttention(nn.Module):
    """Attention across time or across space, its projections fused (§4.4)."""

    def __init__(self, sizes: SynchformerSizes, across: Axis) -> None:
        super().__init__()
        self.heads, self.tubelets, self.across = sizes.heads, sizes.tubelets, across
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width)
        self.proj = nn.Linear(sizes.width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        """X [S, 1 + T·N, D]."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        q = q * q.shape[-1] ** -0.5
        out = divided_attention(q, k, v, tubelets=self.tubelets, across=self.across)
        return self.proj(merge_heads(out))


class Mlp(nn.Module):
    def __init__(self, sizes: SynchformerSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.width, sizes.inner)
        self.fc2 = nn.Linear(sizes.inner, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm residual block: time, then space, then MLP; mind the norms' numbers (§4.3)."""

    attention: type[nn.Module] = DividedAttention

    def __init__(self, sizes: SynchformerSizes) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width, eps=NORM_EPS)
        self.attn = self.attention(sizes, "space")
        self.norm2 = nn.LayerNorm(sizes.width, eps=NORM_EPS)
        self.mlp = Mlp(sizes)
        self.norm3 = nn.LayerNorm(sizes.width, eps=NORM_EPS)
        self.timeattn = self.attention(sizes, "time")

    def forward(self, x: Tensor) -> Tensor:
        """X [S, 1 + T·N, D]."""
        x = x + self.timeattn(self.norm3(x))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SelfAttention(nn.Module):
    """All-to-all attention; the fused projection's rows are q, k, v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """X [R, n, D]."""
        parts = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        return self.out_proj(merge_heads(attend(q * q.shape[-1] ** -0.5, k, v)))


class SpatialAggregator(nn.Module):
    """One pre-norm encoder layer over a tubelet's patches and a learned cls row (§4.6)."""

    def __init__(self, sizes: SynchformerSizes) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, sizes.width))
        self.norm1 = nn.LayerNorm(sizes.width, eps=NORM_EPS)
        self.self_attn = SelfAttention(sizes.width, sizes.heads)
        self.norm2 = nn.LayerNorm(sizes.width, eps=NORM_EPS)
        self.linear1 = nn.Linear(sizes.width, sizes.inner)
        self.linear2 = nn.Linear(sizes.inner, sizes.width)

    def rows(self, patches: Tensor) -> Tensor:
        """Patches [R, N, D] → [R, 1 + N, D]."""
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)

    def mlp(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.linear1(x)))

    def forward(self, patches: Tensor) -> Tensor:
        """Patches of R = T·S tubelets [R, N, D] → [R, D]."""
        x = self.rows(patches)
        x = x + self.self_attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x[:, 0]


class Synchformer(nn.Module):
    """`state_dict()` has the official names below `vfeat_extractor.`."""

    patch_embedding: type[nn.Module] = PatchEmbed3d
    block: type[nn.Module] = Block
    aggregator: type[nn.Module] = SpatialAggregator

    def __init__(self, sizes: SynchformerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.cls_token = nn.Parameter(torch.empty(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + sizes.patches, sizes.width))
        self.temp_embed = nn.Parameter(torch.empty(1, sizes.tubelets, sizes.width))
        self.patch_embed_3d = self.patch_embedding(sizes)
        self.blocks = nn.ModuleList(self.block(sizes) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.width, eps=NORM_EPS)
        self.spatial_attn_agg = self.aggregator(sizes)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [S, tau·T, 3, px, px] in [-1, 1] → [T·S, D]; row T·s + t is tubelet t of s."""
        x = self.embed(self.patch_embed_3d(frames))
        for block in self.blocks:
            x = block(x)
        patches = self.norm(x[:, 1:]).unflatten(1, (self.sizes.tubelets, -1))
        return self.spatial_attn_agg(patches.flatten(0, 1))

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens [S, T·N, D] → with cls and positions, [S, 1 + T·N, D] (§4.2)."""
        cls = self.cls_token + self.pos_embed[:, :1]
        by_tubelet = tokens.unflatten(1, (self.sizes.tubelets, -1))  # [S, T, N, D]
        placed = by_tubelet + self.pos_embed[:, None, 1:] + self.temp_embed[:, :, None]
        return torch.cat([cls.expand(tokens.shape[0], -1, -1), placed.flatten(1, 2)], dim=1)


def open_synchformer(path: Path, *, heads: int) -> tuple[SynchformerSizes, dict[str, LazyTensor]]:
    """Sizes and visual tensors, by official name, of a `.pth` or `.safetensors` file.

    Other branches' tensors are passed over. Raises ExportError listing all visual tensors that are
    missing, unknown or misshaped.
    """
    tensors = {
        name: tensor
        for name, tensor in open_checkpoint(path).model.items()
        if name.startswith(VISUAL) and not name.startswith(_NEVER_APPLIED)
    }
    sizes = SynchformerSizes.from_tensors(tensors, heads=heads)
    check_names_and_shapes(tensors, synchformer_shapes(sizes), what="synchformer")
    return sizes, tensors


def synchformer_shapes(sizes: SynchformerSizes) -> dict[str, tuple[int, ...]]:
    """Every official name that is used, with the shape that these sizes imply."""
    with parameters_on_meta():
        state = Synchformer(sizes).state_dict()
    return {VISUAL + name: tuple(value.shape) for name, value in state.items()}


def load_synchformer(sizes: SynchformerSizes, tensors: Mapping[str, LazyTensor]) -> Synchformer:
    """The network in fp32, in evaluation mode, gradients off."""
    with parameters_on_meta():
        model = Synchformer(sizes)
    load_into(model, {name.removeprefix(VISUAL): value for name, value in tensors.items()})
    return model.eval().requires_grad_(False)
