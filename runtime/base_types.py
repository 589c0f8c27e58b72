"""Which 16-bit type each stage is computed in on a GPU, and when fp16 is too small for it."""

from __future__ import annotations

from collections.abc import Mapping

from omni_rt.manifest import BaseType

# What the original ran its parts in; what is computed once, on few numbers, stays in fp32.
USUAL: Mapping[str, BaseType] = {
    "thinker_embed": "float32",
    "audio_tower": "bfloat16",
    "vision_tower": "bfloat16",
    "thinker_cond": "bfloat16",
    "thinker_lm": "bfloat16",
    "synchformer": "float16",
    "transcript": "float32",
    "context": "float16",
    "signal": "float32",
    "dit_step": "float16",
    "vae_decoder": "float16",
    "vae_encoder": "float16",
}
FP16_MAX = 65504.0
# Requests that nobody observed may be so many times larger. A choice: a bit of fp16's range.
HEADROOM = 2.0


def outgrows_fp16(stage: str, largest: float) -> bool:
    """Whether a stage that fp16 is usual for needs bf16, by the largest value that was observed."""
    return USUAL.get(stage) == "float16" and HEADROOM * largest > FP16_MAX
