"""What a call of a stage must compute and move at least, and how fast a device could do that.

A roofline: max(operations / peak, bytes / bandwidth), reached by no program. Bytes are the weights
once and what goes in and out; what passes from layer to layer inside is taken as kept on the chip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from omni_rt.architecture import Architecture
from omni_rt.bench import example_sizes
from omni_rt.contract import PORTS, SYNC_FRAME_PX, SYNC_SEGMENT_FRAMES
from omni_rt.devices import ARITHMETIC, Device
from omni_rt.errors import RequestError
from omni_rt.flops import step_flops
from omni_rt.manifest import Dims, TensorSpec
from omni_rt.targets import StageFormat

Sizes = Mapping[str, int]  # of dynamic dimensions, as `omni_rt.contract` names them

# Bytes of a weight; 4-bit ones share a scale of four bytes in blocks.
WEIGHT_BYTES: Mapping[StageFormat | None, float] = {
    None: 2.0,
    "uint8": 1.0,
    "int8": 1.0,
    "fp8": 1.0,
    "w8": 1.0,
    "int4": 0.5 + 4 / 64,
    "int4-128": 0.5 + 4 / 128,
}
_PORT_BYTES = {"float32": 2, "int64": 8, "bool": 1}  # engines take and give 16 bits
_SYNC_PATCH_PX, _SYNC_TUBELET_FRAMES = 16, 2  # as published (spec SYNCHFORMER §0)
_SYNC_TOKENS = 1 + (SYNC_SEGMENT_FRAMES // _SYNC_TUBELET_FRAMES) * (
    (SYNC_FRAME_PX // _SYNC_PATCH_PX) ** 2
)

# Rows that a stage's weights are applied to in one call.
_TOKENS: Mapping[str, Callable[[Dims, Sizes], int]] = {
    "thinker_embed": lambda dims, sizes: 0,  # a table
    "audio_tower": lambda dims, sizes: sizes["chunks"] * _chunk_rows(dims),
    "vision_tower": lambda dims, sizes: sizes["grids"] * sizes["patches"],
    "thinker_cond": lambda dims, sizes: sizes["batch"] * sizes["seq"],
    "thinker_lm": lambda dims, sizes: sizes["batch"] * sizes["seq"],
    "synchformer": lambda dims, sizes: sizes["S"] * _SYNC_TOKENS,
    "transcript": lambda dims, sizes: dims.transcript_ids,
    "context": lambda dims, sizes: sizes["P"],
    "signal": lambda dims, sizes: dims.prepend_tokens,
    "dit_step": lambda dims, sizes: sizes["R"] * (dims.prepend_tokens + dims.latent_frames),
}


def _chunk_rows(dims: Dims) -> int:
    assert dims.thinker is not None
    return dims.thinker.chunk_frames // 2  # after a convolution of stride two


def request_sizes(
    dims: Dims, *, rows: int = 2, prompt_tokens: int | None = None, held_tokens: int = 0
) -> dict[str, int]:
    """Dynamic dimensions of a request, as `omni-rt bench` times it unless said otherwise.

    rows: of the loop; an even number is guided, half of them attending. prompt_tokens: of the
    thinker; beyond the model's context they are interpolated to it. held_tokens: of an answer's
    cache. Raises RequestError for a number that is none of these.
    """
    sizes = example_sizes(dims)
    tokens = sizes["seq"] if prompt_tokens is None else prompt_tokens
    if rows < 1 or tokens < 1 or held_tokens < 0:
        raise RequestError(f"rows and tokens must be positive, got {rows} and {tokens}")
    context = min(tokens, dims.context_tokens)
    merged = 1 if dims.thinker is None else dims.thinker.merge**2
    sizes |= {"R": rows, "Q": attending(rows), "n": context, "seq": tokens}
    sizes |= {"P": context + dims.transcript_tokens, "past": held_tokens}
    sizes |= {"total": held_tokens + tokens, "tokens": sizes["patches"] // merged}
    return sizes | {"rows": sizes["S"] * (SYNC_SEGMENT_FRAMES // _SYNC_TUBELET_FRAMES)}


def attending(rows: int) -> int:
    """Rows that see their context: guided, the conditional half; of an odd number, all."""
    return rows // 2 if rows % 2 == 0 else rows


def tokens_of(stage: str, dims: Dims, sizes: Sizes) -> int:
    """Rows of the stage's matrix products."""
    return _TOKENS[stage](dims, sizes)


def stage_flops(model: Architecture, stage: str, sizes: Sizes) -> int:
    """Operations of one call, a multiply-add counting two.

    Exact for the loop's step and the autoencoder. Elsewhere every weight is applied to every row:
    towers and Synchformer are within 5 % of what is computed (their attention is left out),
    `signal` and `transcript` within a factor of two.
    """
    dims = model.dims
    if stage == "dit_step":
        return step_flops(dims, rows=sizes["R"], attending=sizes["Q"], context=sizes["P"])
    if stage == "vae_decoder":
        return sizes["B"] * model.decoder.flops(sizes["frames"] * dims.downsampling_ratio)
    if stage == "vae_encoder":
        return sizes["B"] * model.encoder.flops(sizes["samples"])
    weights, tokens = model.weights[stage], tokens_of(stage, dims, sizes)
    if stage == "thinker_lm":  # words are guessed after the last token only
        assert dims.thinker is not None
        head = dims.thinker.vocabulary * dims.hidden_width
        return 2 * (weights - head) * tokens + 2 * head + _attention(dims, sizes, sizes["total"])
    if stage == "thinker_cond":
        return 2 * weights * tokens + _attention(dims, sizes, sizes["seq"])
    return 2 * weights * tokens


def _attention(dims: Dims, sizes: Sizes, visible: int) -> int:
    """Scores and sums of the thinker's layers, without using that later tokens are not seen."""
    assert dims.thinker is not None
    return 4 * sizes["batch"] * sizes["seq"] * visible * dims.hidden_width * dims.thinker.layers


def weight_bytes(model: Architecture, stage: str, format: StageFormat | None) -> int:
    """Of a stage whose matrices have this format; what is not a matrix is a hundredth or less."""
    return round(model.weights[stage] * WEIGHT_BYTES[format])


def port_bytes(dims: Dims, stage: str, sizes: Sizes) -> int:
    """Everything that goes into a call and comes out of it."""
    ports = PORTS[stage](dims)
    return sum(_bytes_of(port, sizes) for port in (*ports.inputs, *ports.outputs))


def _bytes_of(port: TensorSpec, sizes: Sizes) -> int:
    size = _PORT_BYTES[port.dtype]
    for length in port.shape:
        size *= sizes[length] if isinstance(length, str) else length
    return size


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """One call of a stage on a device, as a roofline has it."""

    stage: str
    format: str  # of its matrices
    flops: int
    moved_bytes: int
    compute_s: float
    memory_s: float

    @property
    def predicted_s(self) -> float:
        """The larger of the two: no program is faster."""
        return max(self.compute_s, self.memory_s)


def stage_cost(
    model: Architecture,
    stage: str,
    sizes: Sizes,
    device: Device,
    *,
    formats: Mapping[str, StageFormat] | None = None,
) -> StageCost:
    """A call's cost. formats: of each stage's matrices, 16 bits if not listed; None: the device's.

    All of a stage's operations count at the rate of its matrices.
    """
    format = (device.formats if formats is None else formats).get(stage)
    flops = stage_flops(model, stage, sizes)
    moved = weight_bytes(model, stage, format) + port_bytes(model.dims, stage, sizes)
    if stage == "thinker_embed":  # only the rows that are looked up are read
        moved = port_bytes(model.dims, stage, sizes)
    return StageCost(
        stage=stage,
        format=format or "16 bits",
        flops=flops,
        moved_bytes=moved,
        compute_s=flops / device.peak[ARITHMETIC[format]],
        memory_s=moved / device.bandwidth,
    )
