"""Arithmetic of one step, counted from the sizes: what a benchmark divides by."""

from __future__ import annotations

from omni_rt.manifest import Dims


def _block(dims: Dims, tokens: int, kept: int) -> int:
    """Self-attention and feed-forward of one block, one row, of which `kept` tokens are read."""
    d = dims.width
    projections = 2 * tokens * d * 3 * d + 2 * kept * d * d
    attention = 4 * kept * tokens * d
    feed_forward = 2 * kept * d * 8 * d + 2 * kept * 4 * d * d
    return projections + attention + feed_forward


def _cross(dims: Dims, tokens: int, context: int) -> int:
    """Cross-attention of one block, one row, keys and values given."""
    return 2 * tokens * dims.width * 2 * dims.width + 4 * tokens * context * dims.width


def step_flops(dims: Dims, *, rows: int, attending: int, context: int) -> int:
    """`dit_step` of `rows` rows, the first `attending` of which see `context` tokens.

    Multiply-adds count two; norms, activations and embeddings (under 1 %) are left out.
    """
    tokens = dims.prepend_tokens + dims.latent_frames

    def block(kept: int) -> int:
        return rows * _block(dims, tokens, kept) + attending * _cross(dims, kept, context)

    return (dims.depth - 1) * block(tokens) + block(dims.latent_frames)


def unregrouped_flops(dims: Dims, *, rows: int) -> int:
    """The original's evaluation: every row sees the whole padded context, recomputed each time."""
    tokens = dims.prepend_tokens + dims.latent_frames
    context = dims.context_tokens + dims.transcript_tokens
    cache = 2 * context * dims.width * 2 * dims.width
    return (
        dims.depth * rows * (_block(dims, tokens, tokens) + _cross(dims, tokens, context) + cache)
    )
