"""The stages as graphs: which module, whose weights, into which file; ports are the runtime's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from omni_rt.contract import PORTS, Ports
from omni_rt.export.checkpoint import THINKER_MARK, THINKER_PREFIX, parameters_on_meta
from omni_rt.export.graphs import Stage
from omni_rt.export.reference.autoencoder import Oobleck
from omni_rt.export.reference.model import AUTOENCODER, CONDITIONERS, DIT, ModelSizes
from omni_rt.export.reference.thinker_config import ThinkerSizes
from omni_rt.export.stages import (
    Context,
    DitStep,
    Signal,
    Transcript,
    VaeDecoder,
    VaeEncoder,
)
from omni_rt.export.thinker_stages import (
    AudioTower,
    ThinkerCond,
    ThinkerEmbed,
    ThinkerLm,
    VisionTower,
)
from omni_rt.manifest import Dims, ThinkerDims

MODEL_STAGES = ("transcript", "context", "signal", "dit_step", "vae_decoder", "vae_encoder")
THINKER_STAGES = ("thinker_embed", "audio_tower", "vision_tower", "thinker_cond", "thinker_lm")
SYNCHFORMER = "synchformer"
STAGES = (*THINKER_STAGES, SYNCHFORMER, *MODEL_STAGES)

THINKER = THINKER_PREFIX + THINKER_MARK


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


def thinker_dims_of(sizes: ThinkerSizes) -> ThinkerDims:
    """The manifest's sizes of the thinker."""
    return ThinkerDims(
        layers=sizes.layers,
        kv_heads=sizes.kv_heads,
        head_width=sizes.head_width,
        vocabulary=sizes.vocabulary,
        max_positions=sizes.max_positions,
        mel_bands=sizes.audio.mel_bands,
        chunk_frames=sizes.audio.chunk_frames,
        patch_px=sizes.vision.patch_px,
        temporal_patch=sizes.vision.temporal_patch,
        merge=sizes.vision.merge,
        window_px=sizes.vision.window_px,
    )


def dims_of(sizes: ModelSizes, thinker: ThinkerSizes | None = None) -> Dims:
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
        thinker=None if thinker is None else thinker_dims_of(thinker),
    )


def _transcript(sizes: ModelSizes, ports: Ports) -> Stage:
    return Stage(
        name="transcript",
        module=Transcript(sizes.conditioners),
        ports=ports,
        official_names={"": CONDITIONERS},
        examples={},
        data_file="conditioners.data",
    )


def _context(sizes: ModelSizes, ports: Ports) -> Stage:
    return Stage(
        name="context",
        module=Context(sizes.dit, sizes.conditioners),
        ports=ports,
        official_names={
            "omni_prompt": CONDITIONERS + "omni_prompt",
            "layers": DIT + "transformer.layers",
            "": DIT,
        },
        examples={"n": 11},
        data_file="conditioners.data",
    )


def _signal(sizes: ModelSizes, ports: Ports) -> Stage:
    return Stage(
        name="signal",
        module=Signal(sizes.dit, sizes.conditioners),
        ports=ports,
        official_names={"to_global_embed": DIT + "to_global_embed", "": CONDITIONERS},
        examples={},
        data_file="conditioners.data",
    )


def _dit_step(sizes: ModelSizes, ports: Ports) -> Stage:
    return Stage(
        name="dit_step",
        module=DitStep(sizes.dit),
        ports=ports,
        official_names={"": DIT},
        listed=2 * sizes.dit.depth,
        examples={"R": 5, "Q": 3, "P": 7},
        data_file="dit.data",
    )


def _vae(sizes: ModelSizes) -> Oobleck:
    config = sizes.config
    return Oobleck(config.encoder, config.decoder, scale=config.latent_scale)


def _vae_decoder(sizes: ModelSizes, ports: Ports) -> Stage:
    return Stage(
        name="vae_decoder",
        module=VaeDecoder(_vae(sizes)),
        ports=ports,
        official_names={"vae": AUTOENCODER.rstrip(".")},
        examples={"B": 2, "frames": 13},
        data_file="vae.data",
    )


def _vae_encoder(sizes: ModelSizes, ports: Ports) -> Stage:
    return Stage(
        name="vae_encoder",
        module=VaeEncoder(_vae(sizes)),
        ports=ports,
        official_names={"vae": AUTOENCODER.rstrip(".")},
        examples={"B": 2, "samples": 3 * sizes.config.downsampling_ratio},
        data_file="vae.data",
    )


def _thinker_embed(sizes: ThinkerSizes, layer_index: int, ports: Ports) -> Stage:
    return Stage(
        name="thinker_embed",
        module=ThinkerEmbed(sizes),
        ports=ports,
        official_names={"": THINKER + "model."},
        examples={"batch": 2, "seq": 7},
        data_file="thinker.data",
    )


def _audio_tower(sizes: ThinkerSizes, layer_index: int, ports: Ports) -> Stage:
    return Stage(
        name="audio_tower",
        module=AudioTower(sizes.audio),
        ports=ports,
        official_names={"": THINKER + "audio_tower."},
        examples={"chunks": 3},
        data_file="audio_tower.data",
    )


def _vision_tower(sizes: ThinkerSizes, layer_index: int, ports: Ports) -> Stage:
    merged = sizes.vision.merge**2
    return Stage(
        name="vision_tower",
        module=VisionTower(sizes.vision),
        ports=ports,
        official_names={"": THINKER + "visual."},
        examples={"grids": 3, "patches": 5 * merged},
        multiples={"patches": merged},
        data_file="vision_tower.data",
    )


def _thinker_cond(sizes: ThinkerSizes, layer_index: int, ports: Ports) -> Stage:
    return Stage(
        name="thinker_cond",
        module=ThinkerCond(sizes, layer_index),
        ports=ports,
        official_names={"": THINKER},
        examples={"batch": 2, "seq": 7},
        data_file="thinker.data",
    )


def _thinker_lm(sizes: ThinkerSizes, layer_index: int, ports: Ports) -> Stage:
    return Stage(
        name="thinker_lm",
        module=ThinkerLm(sizes),
        ports=ports,
        official_names={"": THINKER},
        listed=2 * sizes.layers,
        examples={"batch": 2, "seq": 7, "past": 5, "total": 12},
        derived=("total",),
        data_file="thinker.data",
    )


_MODEL: Mapping[str, Callable[[ModelSizes, Ports], Stage]] = {
    "transcript": _transcript,
    "context": _context,
    "signal": _signal,
    "dit_step": _dit_step,
    "vae_decoder": _vae_decoder,
    "vae_encoder": _vae_encoder,
}
_THINKER: Mapping[str, Callable[[ThinkerSizes, int, Ports], Stage]] = {
    "thinker_embed": _thinker_embed,
    "audio_tower": _audio_tower,
    "vision_tower": _vision_tower,
    "thinker_cond": _thinker_cond,
    "thinker_lm": _thinker_lm,
}


def model_stage(name: str, sizes: ModelSizes) -> Stage:
    """A stage of the transformer, the conditioners or the autoencoder, without weight storage."""
    with parameters_on_meta():
        stage = _MODEL[name](sizes, PORTS[name](dims_of(sizes)))
    return _evaluated(stage)


def thinker_stage(name: str, sizes: ThinkerSizes, model: ModelSizes) -> Stage:
    """A stage of the thinker that conditions `model`, without weight storage."""
    with parameters_on_meta():
        layer_index = model.config.thinker_layer
        stage = _THINKER[name](sizes, layer_index, PORTS[name](dims_of(model, sizes)))
    return _evaluated(stage)


def _evaluated(stage: Stage) -> Stage:
    module: nn.Module = stage.module
    module.eval().requires_grad_(False)
    return stage
