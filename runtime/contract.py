"""Names, types and shapes of every stage's inputs and outputs: what others rely on.

Strings are dynamic dimensions: R engine rows, Q rows that attend to a context, P context tokens,
n thinker states, B clips, seq new and past cached tokens of the thinker, S segments of video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from omni_rt.errors import BundleError
from omni_rt.manifest import Dims, GraphSpec, TensorSpec, ThinkerDims

# Synchformer's input is the same in every model (spec SYNCHFORMER §0).
SYNC_SEGMENT_FRAMES, SYNC_SEGMENT_HOP, SYNC_FRAME_PX = 16, 8, 224


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """A stage's inputs and outputs, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def _port(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _cache(dims: Dims, rows: int | str) -> list[TensorSpec]:
    """k_00, v_00, k_01 …: keys and values of every layer's cross-attention."""
    return [
        _port(f"{part}_{layer:02d}", rows, dims.heads, "P", dims.head_width)
        for layer in range(dims.depth)
        for part in "kv"
    ]


def _thinker(dims: Dims) -> ThinkerDims:
    if dims.thinker is None:
        raise BundleError("a thinker's graph without the thinker's sizes in dims.thinker")
    return dims.thinker


def _thinker_embed(dims: Dims) -> Ports:
    return Ports(
        inputs=(_port("input_ids", "batch", "seq", dtype="int64"),),
        outputs=(_port("inputs_embeds", "batch", "seq", dims.hidden_width),),
    )


def _audio_tower(dims: Dims) -> Ports:
    thinker = _thinker(dims)
    frames = thinker.chunk_frames
    return Ports(
        inputs=(
            _port("mel", "chunks", thinker.mel_bands, frames),
            _port("lengths", "chunks", dtype="int64"),
        ),
        outputs=(_port("audio_embeds", "chunks", frames // 4, dims.hidden_width),),
    )


def _vision_tower(dims: Dims) -> Ports:
    return Ports(
        inputs=(
            _port("pixels", "grids", "patches", _thinker(dims).patch_values),
            _port("pos_hw", "patches", 2, dtype="int64"),
            _port("window_id", "patches", dtype="int64"),
        ),
        outputs=(_port("vision_embeds", "grids", "tokens", dims.hidden_width),),
    )


def _new_tokens(dims: Dims, visible: str) -> list[TensorSpec]:
    """New tokens, their positions, and which of all tokens may be seen."""
    return [
        _port("inputs_embeds", "batch", "seq", dims.hidden_width),
        _port("position_ids", 3, "batch", "seq", dtype="int64"),
        _port("attention_mask", "batch", visible, dtype="int64"),
    ]


def _thinker_cond(dims: Dims) -> Ports:
    return Ports(
        inputs=tuple(_new_tokens(dims, "seq")),
        outputs=(_port("hidden", "batch", "seq", dims.hidden_width),),
    )


def _thinker_cache(dims: Dims, when: str, tokens: str) -> list[TensorSpec]:
    """past_k_00, past_v_00 …: keys and values of every layer of the thinker."""
    thinker = _thinker(dims)
    return [
        _port(f"{when}_{part}_{layer:02d}", "batch", thinker.kv_heads, tokens, thinker.head_width)
        for layer in range(thinker.layers)
        for part in "kv"
    ]


def _thinker_lm(dims: Dims) -> Ports:
    logits = _port("logits", "batch", 1, _thinker(dims).vocabulary)
    return Ports(
        inputs=(*_new_tokens(dims, "total"), *_thinker_cache(dims, "past", "past")),
        outputs=(logits, *_thinker_cache(dims, "present", "total")),
    )


def sync_starts(frames: int) -> range:
    """The first frame of every segment of so many frames (spec SYNCHFORMER §3)."""
    return range(0, frames - SYNC_SEGMENT_FRAMES + 1, SYNC_SEGMENT_HOP)


def synchformer_ports(width: int) -> Ports:
    """Segments of frames → rows of features, 8 per segment, whatever the model's other sizes."""
    pixels = SYNC_FRAME_PX
    return Ports(
        inputs=(_port("frames", "S", SYNC_SEGMENT_FRAMES, 3, pixels, pixels),),
        outputs=(_port("sync", "rows", width),),
    )


def _synchformer(dims: Dims) -> Ports:
    return synchformer_ports(dims.sync_width)


def _transcript(dims: Dims) -> Ports:
    return Ports(
        inputs=(_port("ids", 1, dims.transcript_ids, dtype="int64"),),
        outputs=(_port("transcript", 1, dims.transcript_tokens, dims.cond_width),),
    )


def _context(dims: Dims) -> Ports:
    return Ports(
        inputs=(
            _port("hidden", 1, "n", dims.hidden_width),
            _port("transcript", 1, dims.transcript_tokens, dims.cond_width),
        ),
        outputs=tuple(_cache(dims, 1)),
    )


def _signal(dims: Dims) -> Ports:
    return Ports(
        inputs=(
            _port("waveform", 1, dims.window_samples),
            _port("mel_keep", 1, dims.mel_frames, dtype="bool"),
            _port("sync", 1, dims.sync_rows, dims.sync_width),
        ),
        outputs=(_port("prepend", 1, dims.prepend_tokens, dims.width),),
    )


def _dit_step(dims: Dims) -> Ports:
    return Ports(
        inputs=(
            _port("x", "R", dims.latent_channels, dims.latent_frames),
            _port("t", "R"),
            _port("prepend", "R", dims.prepend_tokens, dims.width),
            _port("context_bias", "Q", 1, 1, "P"),
            *_cache(dims, "Q"),
        ),
        outputs=(_port("v", "R", dims.latent_channels, dims.latent_frames),),
    )


def _vae_decoder(dims: Dims) -> Ports:
    return Ports(
        inputs=(_port("latents", "B", dims.latent_channels, "frames"),),
        outputs=(_port("waveform", "B", dims.audio_channels, "samples"),),
    )


def _vae_encoder(dims: Dims) -> Ports:
    return Ports(
        inputs=(_port("waveform", "B", dims.audio_channels, "samples"),),
        outputs=(
            _port("mean", "B", dims.latent_channels, "frames"),
            _port("std", "B", dims.latent_channels, "frames"),
        ),
    )


PORTS: Mapping[str, Callable[[Dims], Ports]] = {
    "thinker_embed": _thinker_embed,
    "audio_tower": _audio_tower,
    "vision_tower": _vision_tower,
    "thinker_cond": _thinker_cond,
    "thinker_lm": _thinker_lm,
    "synchformer": _synchformer,
    "transcript": _transcript,
    "context": _context,
    "signal": _signal,
    "dit_step": _dit_step,
    "vae_decoder": _vae_decoder,
    "vae_encoder": _vae_encoder,
}


def check_ports(stage: str, graph: GraphSpec, dims: Dims) -> None:
    """Raise BundleError unless a graph has the ports that the contract gives it for these sizes."""
    if stage not in PORTS:
        raise BundleError(f"unknown stage {stage!r}: expected one of {', '.join(PORTS)}")
    wanted = PORTS[stage](dims)
    for kind, have, want in (
        ("inputs", graph.inputs, wanted.inputs),
        ("outputs", graph.outputs, wanted.outputs),
    ):
        if have != want:
            raise BundleError(f"{stage}: {kind} {_text(have)} do not fit the sizes: {_text(want)}")


def _text(ports: Sequence[TensorSpec]) -> str:
    shown = [f"{p.name} {p.dtype}{list(p.shape)}" for p in ports[:6]]
    return ", ".join(shown) + (" …" if len(ports) > 6 else "")
