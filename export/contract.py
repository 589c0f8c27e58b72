"""The stages as graphs: names, shapes and weights, as DESIGN's table says. Others rely on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from omni_rt.export.checkpoint import THINKER_MARK, THINKER_PREFIX, parameters_on_meta
from omni_rt.export.graphs import Port, Stage
from omni_rt.export.reference.autoencoder import Oobleck
from omni_rt.export.reference.model import AUTOENCODER, CONDITIONERS, DIT, ModelSizes
from omni_rt.export.reference.thinker import ThinkerSizes
from omni_rt.export.stages import (
    Context,
    DitStep,
    Signal,
    ThinkerCond,
    ThinkerEmbed,
    Transcript,
    VaeDecoder,
    VaeEncoder,
)
from omni_rt.manifest import Dims

MODEL_STAGES = ("transcript", "context", "signal", "dit_step", "vae_decoder", "vae_encoder")
THINKER_STAGES = ("thinker_embed", "thinker_cond")
STAGES = (*THINKER_STAGES, *MODEL_STAGES)


def window_samples(*, frames: int, hop: int, rate_hz: int) -> int:
    """The roundest number of samples that gives so many mel frames: 441 000 for 1723 officially.

    Any of hop consecutive counts would do; whole seconds are preferred, then tenths, hundredths.
    """
    fewest, most = (frames - 1) * hop, frames * hop - 1
    for unit in (rate_hz, rate_hz // 10, rate_hz // 100):
        if unit and most // unit * unit >= fewest:
            return most // unit * unit
    return fewest


def decoded_samples(frames: int, strides: tuple[int, ...]) -> int:
    """Samples of the decoder's output; an odd stride loses one (spec UPSTREAM §6)."""
    length = frames
    for stride in reversed(strides):
        length = length * stride - stride % 2
    return length


def dims_of(sizes: ModelSizes) -> Dims:
    """The manifest's sizes."""
    config, conditioners = sizes.config, sizes.conditioners
    return Dims(
        width=sizes.dit.width,
        depth=sizes.dit.depth,
        heads=sizes.dit.heads,
        head_width=sizes.dit.head_width,
        latent_channels=config.latent_channels,
        latent_frames=config.latent_frames,
        prepend_tokens=conditioners.sync_tokens + conditioners.mel_tokens,
        hidden_width=conditioners.hidden_width,
        context_tokens=conditioners.context_tokens,
        cond_width=conditioners.cond_width,
        transcript_ids=conditioners.transcript_ids,
        transcript_tokens=conditioners.transcript_tokens,
        mel_frames=conditioners.mel_frames,
        sync_rows=conditioners.sync_rows,
        sync_width=conditioners.sync_width,
        sample_rate_hz=config.sample_rate_hz,
        audio_channels=config.decoder.audio_channels,
        downsampling_ratio=config.downsampling_ratio,
        window_samples=window_samples(
            frames=conditioners.mel_frames,
            hop=conditioners.hop_samples,
            rate_hz=conditioners.mel_rate_hz,
        ),
        clip_samples=decoded_samples(config.latent_frames, config.decoder.strides),
    )


def _transcript(sizes: ModelSizes, dims: Dims) -> Stage:
    return Stage(
        name="transcript",
        module=Transcript(sizes.conditioners),
        inputs=(Port(name="ids", shape=(1, dims.transcript_ids), dtype=torch.int64),),
        outputs=(Port(name="transcript", shape=(1, dims.transcript_tokens, dims.cond_width)),),
        official_names={"": CONDITIONERS},
        examples={},
        data_file="conditioners.data",
    )


def _cache_ports(dims: Dims, batch: int | str) -> list[tuple[Port, Port]]:
    shape = (batch, dims.heads, "P", dims.head_width)
    return [
        (Port(name=f"k_{i:02d}", shape=shape), Port(name=f"v_{i:02d}", shape=shape))
        for i in range(dims.depth)
    ]


def _context(sizes: ModelSizes, dims: Dims) -> Stage:
    return Stage(
        name="context",
        module=Context(sizes.dit, sizes.conditioners),
        inputs=(
            Port(name="hidden", shape=(1, "n", dims.hidden_width)),
            Port(name="transcript", shape=(1, dims.transcript_tokens, dims.cond_width)),
        ),
        outputs=tuple(port for pair in _cache_ports(dims, 1) for port in pair),
        official_names={
            "omni_prompt": CONDITIONERS + "omni_prompt",
            "layers": DIT + "transformer.layers",
            "": DIT,
        },
        examples={"n": 11},
        data_file="conditioners.data",
    )


def _signal(sizes: ModelSizes, dims: Dims) -> Stage:
    return Stage(
        name="signal",
        module=Signal(sizes.dit, sizes.conditioners),
        inputs=(
            Port(name="waveform", shape=(1, dims.window_samples)),
            Port(name="mel_keep", shape=(1, dims.mel_frames), dtype=torch.bool),
            Port(name="sync", shape=(1, dims.sync_rows, dims.sync_width)),
        ),
        outputs=(Port(name="prepend", shape=(1, dims.prepend_tokens, dims.width)),),
        official_names={"to_global_embed": DIT + "to_global_embed", "": CONDITIONERS},
        examples={},
        data_file="conditioners.data",
    )


def _dit_step(sizes: ModelSizes, dims: Dims) -> Stage:
    latents = ("R", dims.latent_channels, dims.latent_frames)
    return Stage(
        name="dit_step",
        module=DitStep(sizes.dit),
        inputs=(
            Port(name="x", shape=latents),
            Port(name="t", shape=("R",)),
            Port(name="prepend", shape=("R", dims.prepend_tokens, dims.width)),
            Port(name="context_bias", shape=("Q", 1, 1, "P")),
            *(port for pair in _cache_ports(dims, "Q") for port in pair),
        ),
        outputs=(Port(name="v", shape=latents),),
        official_names={"": DIT},
        listed=2 * dims.depth,
        examples={"R": 5, "Q": 3, "P": 7},
        data_file="dit.data",
    )


def _vae(sizes: ModelSizes) -> Oobleck:
    config = sizes.config
    return Oobleck(config.encoder, config.decoder, scale=config.latent_scale)


def _vae_decoder(sizes: ModelSizes, dims: Dims) -> Stage:
    return Stage(
        name="vae_decoder",
        module=VaeDecoder(_vae(sizes)),
        inputs=(Port(name="latents", shape=("B", dims.latent_channels, "frames")),),
        outputs=(Port(name="waveform", shape=("B", dims.audio_channels, "samples")),),
        official_names={"vae": AUTOENCODER.rstrip(".")},
        examples={"B": 2, "frames": 13},
        data_file="vae.data",
    )


def _vae_encoder(sizes: ModelSizes, dims: Dims) -> Stage:
    channels = sizes.config.encoder.audio_channels
    latents = ("B", dims.latent_channels, "frames")
    return Stage(
        name="vae_encoder",
        module=VaeEncoder(_vae(sizes)),
        inputs=(Port(name="waveform", shape=("B", channels, "samples")),),
        outputs=(Port(name="mean", shape=latents), Port(name="std", shape=latents)),
        official_names={"vae": AUTOENCODER.rstrip(".")},
        examples={"B": 2, "samples": 3 * dims.downsampling_ratio},
        data_file="vae.data",
    )


def _thinker_embed(sizes: ThinkerSizes, layer_index: int) -> Stage:
    return Stage(
        name="thinker_embed",
        module=ThinkerEmbed(sizes),
        inputs=(Port(name="input_ids", shape=("batch", "seq"), dtype=torch.int64),),
        outputs=(Port(name="inputs_embeds", shape=("batch", "seq", sizes.width)),),
        official_names={"": THINKER_PREFIX + THINKER_MARK + "model."},
        examples={"batch": 2, "seq": 7},
        data_file="thinker.data",
    )


def _thinker_cond(sizes: ThinkerSizes, layer_index: int) -> Stage:
    return Stage(
        name="thinker_cond",
        module=ThinkerCond(sizes, layer_index),
        inputs=(
            Port(name="inputs_embeds", shape=("batch", "seq", sizes.width)),
            Port(name="position_ids", shape=(3, "batch", "seq"), dtype=torch.int64),
            Port(name="attention_mask", shape=("batch", "seq"), dtype=torch.int64),
        ),
        outputs=(Port(name="hidden", shape=("batch", "seq", sizes.width)),),
        official_names={"": THINKER_PREFIX + THINKER_MARK},
        examples={"batch": 2, "seq": 7},
        data_file="thinker.data",
    )


_MODEL: Mapping[str, Callable[[ModelSizes, Dims], Stage]] = {
    "transcript": _transcript,
    "context": _context,
    "signal": _signal,
    "dit_step": _dit_step,
    "vae_decoder": _vae_decoder,
    "vae_encoder": _vae_encoder,
}
_THINKER: Mapping[str, Callable[[ThinkerSizes, int], Stage]] = {
    "thinker_embed": _thinker_embed,
    "thinker_cond": _thinker_cond,
}


def model_stage(name: str, sizes: ModelSizes) -> Stage:
    """A stage of the transformer, the conditioners or the autoencoder, without weight storage."""
    with parameters_on_meta():
        stage = _MODEL[name](sizes, dims_of(sizes))
    return _evaluated(stage)


def thinker_stage(name: str, sizes: ThinkerSizes, layer_index: int) -> Stage:
    """A stage of the thinker, without weight storage."""
    with parameters_on_meta():
        stage = _THINKER[name](sizes, layer_index)
    return _evaluated(stage)


def _evaluated(stage: Stage) -> Stage:
    module: nn.Module = stage.module
    module.eval().requires_grad_(False)
    return stage
