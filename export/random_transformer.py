"""A transformer of random weights, as the original has it and regrouped, with inputs for both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from omni_rt.contract import PORTS
from omni_rt.encode import Context, Floats, Prepared
from omni_rt.export.graphs import Stage
from omni_rt.export.reference.dit import Block, DiT, DitSizes, guided_velocity, split_heads
from omni_rt.export.stage_weights import FUSED
from omni_rt.export.stages import DitStep
from omni_rt.manifest import Dims
from omni_rt.plans import Plan

VALID_TOKENS = 336  # a prompt of 80 tokens and the 256 of speech (spec UPSTREAM §12)


def official_dims(*, width: int = 2048, depth: int = 36) -> Dims:
    """The official model's sizes (spec UPSTREAM §1), or a narrower or shallower one's."""
    return Dims(
        width=width,
        depth=depth,
        heads=width // 64,
        head_width=64,
        latent_channels=64,
        latent_frames=236,
        prepend_tokens=364,
        hidden_width=2048,
        context_tokens=2048,
        cond_width=768,
        transcript_ids=2584,
        transcript_tokens=256,
        mel_frames=1723,
        sync_rows=240,
        sync_width=768,
        sample_rate_hz=44_100,
        audio_channels=2,
        downsampling_ratio=2048,
        window_samples=441_000,
        clip_samples=483_328,
        thinker=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomTransformer:
    """Both forms of one transformer on one device, and one request's inputs."""

    dims: Dims
    original: DiT
    regrouped: DitStep
    context: Tensor  # [1, P, 768], what the mask hides included
    mask: Tensor  # [1, P] bool
    low_level: Tensor  # [1, N, 768]

    @classmethod
    @torch.no_grad()
    def of(cls, dims: Dims, device: str, *, seed: int = 0) -> RandomTransformer:
        """Weights of variance 1/inputs, so that activations keep their size."""
        generator = torch.Generator(device).manual_seed(seed)
        sizes = DitSizes(
            width=dims.width,
            depth=dims.depth,
            heads=dims.heads,
            latent_channels=dims.latent_channels,
            cond_width=dims.cond_width,
        )
        with torch.device(device):
            original, regrouped = DiT(sizes), DitStep(sizes)
        for parameter in original.parameters():
            if parameter.ndim > 1:
                spread = math.prod(parameter.shape[1:]) ** -0.5
                parameter.normal_(0, spread, generator=generator)
        weights = split_state(original.state_dict(), regrouped)
        regrouped.load_state_dict(weights, strict=True, assign=True)  # shared, not copied
        tokens = dims.context_tokens + dims.transcript_tokens
        mask = torch.arange(tokens, device=device) < VALID_TOKENS

        def normal(count: int) -> Tensor:
            shape = (1, count, dims.cond_width)
            return torch.randn(shape, generator=generator, device=device)

        return cls(
            dims=dims,
            original=original,
            regrouped=regrouped,
            context=normal(tokens),
            mask=mask[None],
            low_level=normal(dims.prepend_tokens),
        )

    def stage(self) -> Stage:
        """The regrouped form as `dit_step`."""
        ports = PORTS["dit_step"](self.dims)
        return Stage(
            name="dit_step",
            module=self.regrouped,
            ports=ports,
            official_names={},
            listed=2 * self.dims.depth,
            examples={},
            data_file="",
        )

    @torch.no_grad()
    def prepared(self) -> Prepared:
        """What `context` and `signal` would make of the request."""
        embedded = self.original.to_cond_embed(self.context[:, : int(self.mask.sum())])
        keys, values = [], []
        for layer in self.original.transformer.layers:
            k, v = cast(Block, layer).cross_attn.to_kv(embedded).chunk(2, dim=-1)
            keys.append(split_heads(k, self.dims.heads).cpu().numpy())
            values.append(split_heads(v, self.dims.heads).cpu().numpy())
        prepend: Floats = self.original.to_global_embed(self.low_level).cpu().numpy()
        return Prepared(context=Context(keys=keys, values=values), negative=None, prepend=prepend)

    @torch.no_grad()
    def original_latents(self, noise: Tensor, plan: Plan, *, cfg_scale: float) -> Tensor:
        """The original's loop: Euler over both branches, fp16 by autocast on a GPU."""
        x, conditioning = noise, (self.context, self.mask, self.low_level)
        with torch.autocast(x.device.type, torch.float16, enabled=x.is_cuda):
            for row in plan.rows:
                t = torch.full((len(x),), row.t, device=x.device)
                x = x + row.b[0] * guided_velocity(
                    self.original, x, t, conditioning, cfg_scale=cfg_scale
                )
        return x


def split_state(state: dict[str, Tensor], step: DitStep) -> dict[str, Tensor]:
    """The original's weights by the regrouped form's names: fused projections taken apart."""
    found = {}
    for name in step.state_dict():
        stem, _, leaf = name.rpartition(".")
        parent, _, part = stem.rpartition(".")
        parts = FUSED["to_qkv"]
        if name in state:
            found[name] = state[name]
        elif part in parts and f"{parent}.to_qkv.{leaf}" in state:
            fused = state[f"{parent}.to_qkv.{leaf}"]
            found[name] = fused.chunk(len(parts))[parts.index(part)]
    return found
