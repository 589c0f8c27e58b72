"""Which parameters of the transformer are trained: all, or those of adapters put into it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from omni_rt.calibration.distill.lighten import store_blocks_in_bf16
from omni_rt.calibration.distill.lora import add_adapters
from omni_rt.calibration.distill.options import TrainingOptions
from omni_rt.export.reference.dit import DiT

Parameters = Mapping[str, nn.Parameter]  # by name


class Trained(nn.Module):
    """Parameters apart from the model that they lie in, to be saved and averaged alone.

    They are the model's own: it changes with them.
    """

    def __init__(self, parameters: Parameters) -> None:
        super().__init__()
        for name, parameter in parameters.items():
            self.register_parameter(name.replace(".", "/"), parameter)

    def named(self) -> dict[str, Tensor]:
        """Values by the model's names."""
        return {name.replace("/", "."): value.detach() for name, value in self.named_parameters()}


def trained_parameters(dit: DiT, options: TrainingOptions, *, seed: int) -> Parameters:
    """Those that these options train, by name; nothing else has gradients.

    For adapters the blocks' own matrices are kept in 16 bits, if that is what they compute in.
    """
    if options.lora_rank is None:
        dit.requires_grad_(True)
        return dict(dit.named_parameters())
    if options.bf16:
        store_blocks_in_bf16(dit)
    return add_adapters(dit, rank=options.lora_rank, seed=seed)
