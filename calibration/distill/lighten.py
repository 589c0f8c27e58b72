"""A transformer that takes less memory: 16-bit arithmetic in its blocks, and less kept of them.

What is outside the blocks (Fourier features of the time above all) stays in fp32 throughout: there
rounding would move the times.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omni_rt.export.reference.dit import DiT


def lighten(dit: DiT, *, bf16: bool, checkpointing: bool) -> None:
    """Run the blocks in bf16 by autocast, and keep their inputs alone for the backward pass."""
    for block in dit.transformer.layers:
        run: Callable[..., Tensor] = block.forward
        if bf16:
            run = partial(_in_bf16, run)
        if checkpointing:
            run = partial(_checkpointed, run)
        block.forward = run


def _in_bf16(run: Callable[..., Tensor], x: Tensor, *given: Any) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16):
        return run(x, *given).float()


def _checkpointed(run: Callable[..., Tensor], *given: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return run(*given)
    out: Tensor = checkpoint(run, *given, use_reentrant=False)
    return out


def store_blocks_in_bf16(dit: DiT) -> None:
    """Hold the blocks' matrices, which are frozen, in 16 bits."""
    for block in dit.transformer.layers:
        for module in block.modules():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)
