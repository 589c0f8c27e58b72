"""Low-rank adapters on the blocks' matrices, by peft; merged into the official weights at the end.

Each has scale 1: alpha is the rank, as in spec SOLVERS §3's recipe rate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from omni_rt.errors import ExportError
from omni_rt.export.reference.dit import DiT

_MATRICES = r"transformer\.layers\.\d+\.(self_attn|cross_attn|ff)\..*"
_NAME = "student"


def add_adapters(dit: DiT, *, rank: int, seed: int) -> dict[str, nn.Parameter]:
    """Put adapters into every matrix of the blocks, freeze the rest. Returns what is trained.

    They change nothing until they are trained. Raises ExportError if peft is missing.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ExportError("LoRA needs peft: pip install 'omni_rt[distill]'") from error
    matrices = [name for name, module in dit.named_modules() if _is_matrix(name, module)]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=matrices)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, dit, adapter_name=_NAME)
    trained = {name: value for name, value in dit.named_parameters() if value.requires_grad}
    for value in trained.values():
        value.data = value.data.float()  # peft gives them their matrix's type
    return trained


def _is_matrix(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and re.fullmatch(_MATRICES, name) is not None


@torch.no_grad()
def merged(dit: DiT, adapters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What trained adapters add to the weights, fp32, by the weights' names.

    `adapters`: their values by the names that `add_adapters` gave.
    """
    for name, value in adapters.items():
        dit.get_parameter(name).copy_(value)
    found = {}
    for name, module in dit.named_modules():
        layer: Any = module
        if hasattr(module, "get_delta_weight"):
            found[f"{name}.weight"] = layer.get_delta_weight(_NAME).float().cpu()
    return found
