"""Adapters: nothing before they are trained, the same after they are merged."""

from __future__ import annotations

import torch
from torch import Tensor

from omni_rt.calibration.distill.lora import merged
from omni_rt.calibration.distill.options import TrainingOptions
from omni_rt.calibration.distill.tokens import collated
from omni_rt.calibration.distill.trained import trained_parameters
from omni_rt.export.reference.dit import DiT
from tests.calibration.distill.tiny import normal, random_dit, silence, tokens


@torch.no_grad()
def velocity(dit: DiT) -> Tensor:
    given = collated([tokens(5)], silence(), torch.device("cpu"))
    found: Tensor = dit(normal(1, 4, 6), torch.tensor([0.6]), *given)
    return found


def test_merged_weights_do_what_the_adapters_do() -> None:
    """fp32 in another order: within 1e-5 of the velocity's size."""
    plain, adapted = random_dit(), random_dit()
    before = velocity(plain)
    parameters = trained_parameters(adapted, TrainingOptions(lora_rank=3), seed=0)
    assert torch.equal(velocity(adapted), before)
    trained = {
        name: value.detach() + 0.1 * normal(*value.shape, seed=i)
        for i, (name, value) in enumerate(parameters.items())
    }
    added = merged(adapted, trained)
    with_adapters = velocity(adapted)
    with torch.no_grad():
        for name, delta in added.items():
            plain.get_parameter(name).add_(delta)
    assert set(added) == {
        n
        for n, p in plain.named_parameters()
        if n.startswith("transformer.layers") and p.dim() == 2
    }
    assert (with_adapters - before).norm() > 0.01 * before.norm()
    assert (velocity(plain) - with_adapters).norm() < 1e-5 * with_adapters.norm()


def test_only_adapters_are_trained_and_in_full_precision() -> None:
    dit = random_dit()
    parameters = trained_parameters(dit, TrainingOptions(lora_rank=2, bf16=True), seed=0)
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    assert {n for n, p in dit.named_parameters() if p.requires_grad} == set(parameters)
    assert dit.timestep_features.weight.dtype == torch.float32
