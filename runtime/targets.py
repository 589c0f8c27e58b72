"""What a bundle can be rounded for: one row per device, and the bounds of every precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from omni_rt.errors import RequestError
from omni_rt.manifest import BaseType, Dims, Precision

StageFormat = Literal["uint8", "int8", "fp8", "w8", "int4", "int4-128"]
PRECISIONS: Mapping[StageFormat, Precision] = {  # what a manifest says of a graph in a format
    "uint8": "int8",
    "int8": "int8",
    "fp8": "fp8",
    "w8": "int8",  # weights alone
    "int4": "int4",  # in blocks of 64 input channels
    "int4-128": "int4",
}
INT4_BLOCKS: Mapping[int, StageFormat] = {64: "int4", 128: "int4-128"}

_EIGHT_BITS = (
    "thinker_cond",
    "audio_tower",
    "vision_tower",
    "synchformer",
    "context",
    "dit_step",
)
_WORDS: Mapping[str, StageFormat] = {"thinker_embed": "int8", "thinker_lm": "int4"}
# What runs once a request multiplies in 16 bits: in E4M3 it would be most of a request's error (the
# miniature's conditioning is off by .065 then, by .009 so), and save little of its time.
_RTX: Mapping[str, StageFormat] = {
    **dict.fromkeys(_EIGHT_BITS, "w8"),
    **_WORDS,
    "dit_step": "fp8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device: which format each stage's matrices get. Stages that are not listed keep theirs."""

    name: str
    library: str
    formats: Mapping[str, StageFormat]
    about: str
    compute_capability: str | None = None  # of its GPU, "8.9"
    # Whether products may read 8-bit weights and activations that are not rounded. TensorRT-RTX 1.7
    # fuses the weights' restoring into the product; TensorRT does so with 4-bit weights alone
    # (docs.nvidia.com/deeplearning/tensorrt/10.11.0, "Working with Quantized Types").
    weights_only: bool = True


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="cpu",
            library="onnxruntime",
            formats={**dict.fromkeys(_EIGHT_BITS, "uint8"), **_WORDS},
            about="any processor: 8-bit integers, text decoding with 4-bit weights",
        ),
        Target(
            name="orin",
            library="tensorrt",
            formats={**dict.fromkeys(_EIGHT_BITS, "int8"), **_WORDS, "thinker_cond": "int4"},
            about="Jetson Orin: 8-bit integers; conditioning and answers share 4-bit weights",
            compute_capability="8.7",
            weights_only=False,
        ),
        Target(
            name="rtx4090",
            library="tensorrt_rtx",
            formats=_RTX,
            about="sm_89: steps in E4M3, the rest with 8-bit weights, answers with 4-bit ones",
            compute_capability="8.9",
        ),
        Target(
            name="rtx5090",
            library="tensorrt_rtx",
            formats=_RTX,
            about="sm_120: steps in E4M3, the rest with 8-bit weights, answers with 4-bit ones",
            compute_capability="12.0",
        ),
    )
}


def target_named(name: str) -> Target:
    """A target by name. Raises RequestError listing them all."""
    try:
        return TARGETS[name]
    except KeyError:
        raise RequestError(f"unknown target {name!r}: one of {', '.join(TARGETS)}") from None


def target_as_asked(name: str, *, int8: bool = False, int4_block: int = 64) -> Target:
    """A target by name, with other formats than its own where that is asked.

    int8: 8-bit integers where the target has E4M3. They have more digits and, on GPUs that have
    both, are multiplied as fast; attention is not rounded then. int4_block: input channels that
    share a scale. Raises RequestError for what is not there to be changed, or no block.
    """
    target, changed = target_named(name), dict[StageFormat, StageFormat]()
    if int8:
        if "fp8" not in target.formats.values():
            raise RequestError(f"target {name} rounds nothing to E4M3: leave out --int8")
        changed["fp8"] = "int8"
    if int4_block not in INT4_BLOCKS:
        raise RequestError(
            f"blocks of 4 bits have {' or '.join(map(str, INT4_BLOCKS))} channels, not {int4_block}"
        )
    changed["int4"] = INT4_BLOCKS[int4_block]
    formats = {stage: changed.get(own, own) for stage, own in target.formats.items()}
    return replace(target, formats=formats)


# Relative L2 of a transformer block's output, and where the figure comes from.
_BLOCK_ERROR: Mapping[Precision, tuple[float, str]] = {
    "int8": (0.036, "8-bit integers with SmoothQuant: .034 on synthetic weights with outliers"),
    "fp8": (0.046, "E4M3 with FP8 attention: .0435 on synthetic weights with outliers"),
    "int4": (0.2, "4-bit weights in blocks of 64: .08 to .11 for a product, four of them in a row"),
}
_LARGEST_BOUND = 0.5  # beyond it nothing would be said; what then counts is the end-to-end part


def rounded_bound(precision: Precision, stage: str, dims: Dims) -> tuple[float, str] | None:
    """The bound of a rounded stage's outputs (relative L2) and its origin; None if not rounded.

    Errors of independent blocks add up as the square root of their number.
    """
    found = _BLOCK_ERROR.get(precision)
    if found is None:
        return None
    per_block, origin = found
    depth = _depth(stage, dims)
    bound = min(per_block * math.sqrt(depth), _LARGEST_BOUND)
    return bound, f"{origin}; errors of {depth} blocks as independent, at most {_LARGEST_BOUND:g}"


# An operand of a product, rounded to 11 or 8 bits, is off by at most this part of itself.
_UNIT_ROUNDOFF: Mapping[BaseType, float] = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
_ROUNDOFFS = 4.0  # of a block


def narrow_bound(base: BaseType, stage: str, dims: Dims) -> tuple[float, str] | None:
    """What 16-bit products may add to a stage's error, and where it comes from; None in fp32.

    Of independent roundings by less than u each adds u/√3 at most, as a root of squares; a block
    has six products in a row, of two operands each: 2 u, doubled for what amplifies. Measured on
    the miniature, computed so on a processor: .4 to 1.3 u a stage, 2 u for the autoencoder's std.
    """
    roundoff = _UNIT_ROUNDOFF.get(base)
    if roundoff is None:
        return None
    depth = _depth(stage, dims)
    return _ROUNDOFFS * roundoff * math.sqrt(depth), (
        f"products in {base}: {_ROUNDOFFS:g} roundings of {roundoff:.1e} a block, {depth} blocks "
        "as independent"
    )


def _depth(stage: str, dims: Dims) -> int:
    thinker = dims.thinker
    if stage == "dit_step":
        return dims.depth
    if stage in ("thinker_cond", "thinker_lm") and thinker is not None:
        return thinker.layers
    return 1 if stage in ("context", "thinker_embed") else 4
