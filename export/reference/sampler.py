"""The original's sampler: Euler from noise at t = 1 to latents at t = 0 (spec UPSTREAM §4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from omni_rt.export.reference.dit import DiT, guided_velocity


@torch.inference_mode()
def sample_euler(
    dit: DiT,
    noise: Tensor,
    conditioning: Sequence[Tensor],
    *,
    steps: int,
    cfg_scale: float,
    on_step: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Latents [B, C, L] from noise [B, C, L] in `steps` equal fp32 steps; tells before each."""
    times = torch.linspace(1, 0, steps + 1)
    x = noise
    for step, (now, after) in enumerate(pairwise(times), start=1):
        on_step(step)
        t = now.expand(len(x))
        x = x + (after - now) * guided_velocity(dit, x, t, conditioning, cfg_scale=cfg_scale)
    return x
