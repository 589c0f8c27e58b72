"""The guided teacher: AB3 on times that contain the student's, its states kept at these."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from omni_rt.export.reference.dit import DiT, guided_velocity
from omni_rt.plans import Plan, make_plan

METHOD = "ab3"

Conditioning = tuple[Tensor, Tensor, Tensor]  # context [B, P, W], its mask [B, P], low level


def nested_plan(nodes: Sequence[float], steps: int) -> Plan:
    """AB3 with every segment of `nodes` divided into equally many steps, about `steps` in all."""
    per_segment = substeps(nodes, steps)
    times = [
        float(t)
        for start, end in pairwise(nodes)
        for t in np.linspace(start, end, per_segment, endpoint=False)
    ]
    return make_plan(f"{METHOD}-{len(times)}", grid=[*times, nodes[-1]])


def substeps(nodes: Sequence[float], steps: int) -> int:
    """Steps of the teacher in one segment."""
    return max(1, round(steps / (len(nodes) - 1)))


@torch.no_grad()
def node_states(
    dit: DiT,
    noise: Tensor,
    conditioning: Conditioning,
    plan: Plan,
    *,
    every: int,
    cfg_scale: float,
) -> Tensor:
    """States [B, K + 1, C, L] from noise [B, C, L], before every `every`-th row and at the end.

    The rows are executed as the runtime's loop does (spec SOLVERS §1), in fp32.
    """
    x, ring = noise, deque[Tensor](maxlen=3)
    kept = []
    for number, row in enumerate(plan.rows):
        if number % every == 0:
            kept.append(x)
        t = torch.full((len(x),), row.t, device=x.device)
        v = guided_velocity(dit, x, t, conditioning, cfg_scale=cfg_scale)
        ring.appendleft(row.p * x + row.q * v)
        x = row.a * x + sum(b * h for b, h in zip(row.b, ring, strict=False))
    return torch.stack([*kept, x], dim=1)
