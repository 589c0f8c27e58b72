"""How much memory a step of training takes, from a configuration's sizes: nothing is allocated.

The transformer is built of tensors without storage (torch's FakeTensorMode), and what its forward
pass keeps for the backward pass is counted as autograd asks for it. Not counted: what is alive for
a moment only, and what a library reserves for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from omni_rt.calibration.distill.lighten import lighten
from omni_rt.calibration.distill.objective import velocity_of
from omni_rt.calibration.distill.options import LORA_RANK, TrainingOptions
from omni_rt.calibration.distill.trained import trained_parameters
from omni_rt.export.reference.dit import DiT, DitSizes
from omni_rt.export.reference.model import ModelSizes

TEXT_TOKENS = 80  # of a usual prompt with its system turn

# Bytes of the optimiser for each number that is trained: two moments.
_OPTIMISER_BYTES = {"adamw": 2 * 4, "adamw8bit": 2 * 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimiser: int
    average: int  # moving, of what is trained
    activations: int  # kept for the backward pass of one micro-batch

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.average + self.activations


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """What one micro-batch looks like."""

    rows: int
    frames: int  # latent
    context_tokens: int
    low_level_tokens: int

    @classmethod
    def of(cls, sizes: ModelSizes, rows: int) -> StepShape:
        """A usual prompt, speech or its absence, and the prepended tokens."""
        conditioners = sizes.conditioners
        return cls(
            rows=rows,
            frames=sizes.config.latent_frames,
            context_tokens=min(TEXT_TOKENS, conditioners.context_tokens)
            + conditioners.transcript_tokens,
            low_level_tokens=conditioners.sync_tokens + conditioners.mel_tokens,
        )


def step_memory(sizes: DitSizes, shape: StepShape, options: TrainingOptions) -> StepMemory:
    """What a step with these options takes."""
    with _without_storage(sizes, options) as dit:
        kept = kept_bytes(dit, shape)
    trained = [value for value in dit.parameters() if value.requires_grad]
    if options.checkpointing:  # one block at a time is run again, and then kept as a whole
        kept += _of_a_block(sizes, shape, replace(options, checkpointing=False))
    numbers = sum(value.numel() for value in trained)
    own = storage_bytes(trained)
    return StepMemory(
        weights=storage_bytes([*dit.parameters(), *dit.buffers()]),
        gradients=own,
        optimiser=_OPTIMISER_BYTES[options.optimiser] * numbers,
        average=own,
        activations=kept,
    )


@contextmanager
def _without_storage(sizes: DitSizes, options: TrainingOptions) -> Iterator[DiT]:
    """What is trained with these options, on a processor that keeps shapes and types alone."""
    with torch.device("meta"):  # where peft can move its adapters about
        dit = DiT(sizes)
        lighten(dit, bf16=options.bf16, checkpointing=options.checkpointing)
        trained_parameters(dit, options, seed=0)
    with FakeTensorMode(allow_non_fake_inputs=True):  # where attention is that of a processor
        dit.to_empty(device="cpu")
        yield dit


def kept_bytes(dit: DiT, shape: StepShape) -> int:
    """What a forward pass keeps for the backward pass, each storage once, weights left out."""
    own = {value.untyped_storage()._cdata for value in dit.parameters()}
    found: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address comes twice

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage.nbytes()
            alive.append(value)
        return value

    sizes, rows = dit.sizes, shape.rows
    x = torch.zeros(rows, sizes.latent_channels, shape.frames)
    context = torch.zeros(rows, shape.context_tokens, sizes.cond_width)
    mask = torch.ones(rows, shape.context_tokens, dtype=torch.bool)
    low_level = torch.zeros(rows, shape.low_level_tokens, sizes.cond_width)
    unpack: Callable[[Tensor], Tensor] = lambda value: value  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        velocity_of(dit)(x, torch.zeros(rows), (context, mask, low_level)).square().mean()
    return sum(found.values())


def _of_a_block(sizes: DitSizes, shape: StepShape, options: TrainingOptions) -> int:
    """What one more block keeps."""
    found = []
    for depth in (1, 2):
        with _without_storage(replace(sizes, depth=depth), options) as dit:
            found.append(kept_bytes(dit, shape))
    return found[1] - found[0]


def storage_bytes(values: Iterable[Tensor]) -> int:
    """Bytes of some tensors, each storage once."""
    return sum({v.untyped_storage()._cdata: v.untyped_storage().nbytes() for v in values}.values())


def variants(options: TrainingOptions) -> dict[str, TrainingOptions]:
    """The four ways to train, with all else as asked for."""
    rank = options.lora_rank or LORA_RANK
    return {
        f"{what}{', checkpointing' * again}": replace(
            options, lora_rank=lora, checkpointing=bool(again)
        )
        for what, lora in (("all weights", None), (f"LoRA {rank}", rank))
        for again in (0, 1)
    }
