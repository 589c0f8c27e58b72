"""Sizes of a model from its configurations alone, before there is a checkpoint."""

from __future__ import annotations

from pathlib import Path

from omni_rt.architecture import Architecture, autoencoder_levels
from omni_rt.export.config import read_config
from omni_rt.export.contract import STAGES, THINKER_STAGES, dims_of
from omni_rt.export.graphs import tensors_of
from omni_rt.export.random_checkpoint import sizes_for
from omni_rt.export.reference.synchformer import SynchformerSizes
from omni_rt.export.reference.thinker_config import ThinkerSizes, read_thinker_config
from omni_rt.export.tracing import StageSizes

PUBLISHED_SYNCHFORMER = SynchformerSizes(
    width=768,
    heads=12,
    depth=12,
    inner=3072,
    tubelets=8,
    patches=196,
    patch_px=16,
    tubelet_frames=2,
)


def configured_sizes(config: Path, thinker_config: Path | None) -> StageSizes:
    """What the stages of a configuration are built from, with Synchformer in its published size.

    Raises ExportError if a configuration cannot be read.
    """
    model, _ = read_config(config)
    thinker = (
        None
        if thinker_config is None
        else ThinkerSizes.from_config(read_thinker_config(thinker_config))
    )
    return StageSizes(model=sizes_for(model), thinker=thinker, synchformer=PUBLISHED_SYNCHFORMER)


def configured_stages(sizes: StageSizes) -> tuple[str, ...]:
    """The stages that such a model has."""
    return tuple(s for s in STAGES if sizes.thinker is not None or s not in THINKER_STAGES)


def configured_architecture(config: Path, thinker_config: Path | None) -> Architecture:
    """What a model of this configuration costs, its weights counted and never made.

    Raises ExportError if a configuration cannot be read.
    """
    sizes = configured_sizes(config, thinker_config)
    encoder, decoder = autoencoder_levels(read_config(config)[1])
    return Architecture(
        name=config.stem,
        dims=dims_of(sizes.model, sizes.thinker),
        weights={
            name: sum(value.numel() for value in tensors_of(sizes.stage(name).module).values())
            for name in configured_stages(sizes)
        },
        encoder=encoder,
        decoder=decoder,
    )
