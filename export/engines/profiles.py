"""Which sizes a plan is compiled for: buckets of prompts and of rows, over one set of weights.

Latents, prepended tokens and all else that the model fixes are static. Contexts are padded to their
bucket and rows have exact counts: with ranges of either, TensorRT-RTX 1.7 left cross-attentions
unfused, since it could not tell that as many rows are sliced off as have a context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from omni_rt.answering import SLICE_TOKENS
from omni_rt.cuda_loop import TOKEN_BUCKETS
from omni_rt.errors import RequestError
from omni_rt.manifest import Dims
from omni_rt.senses import CHUNKS_AT_ONCE, PATCHES_AT_ONCE, SEGMENTS_AT_ONCE

Range = tuple[int, int, int]  # fewest, usual, most
Profile = Mapping[str, Range]

DEFAULT_REQUESTS = 1  # of a batch

# What the runtime hands over at once, beside what senses.py and answering.py say.
_ONE = (1, 1, 1)
_GRID_PATCHES = (16, 64, 576, PATCHES_AT_ONCE)  # of one grid: small frames come many at once
# Of a prompt with its recordings: a usual one, such as ten seconds of video (3700), and one with
# five minutes of sound (7500) beside them. Its attention takes memory by the square of these.
_CONDITIONING_TOKENS = (4096, 12_288)
_ANSWER_TOKENS = 8192  # kept of a usual conversation; the longest fills the thinker's context


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """What may be asked of the engines of a bundle."""

    contexts: tuple[int, ...] = TOKEN_BUCKETS
    requests: int = DEFAULT_REQUESTS

    def __post_init__(self) -> None:
        if not self.contexts or min(self.contexts) < 1:
            raise RequestError(f"contexts must be positive numbers of tokens, got {self.contexts}")
        if self.requests < 1:
            raise RequestError(f"a batch has at least one request, got {self.requests}")


def profiles_of(stage: str, dims: Dims, buckets: Buckets) -> list[Profile]:
    """The sizes that a stage is compiled for, smallest first: every dynamic dimension in each.

    A context is never longer than the model's, so larger buckets become that one.
    """
    return _PROFILES[stage](dims, buckets)


def _up_to(most: int, *, usual: int | None = None, least: int = 1) -> Range:
    return least, min(most, usual or most), most


def _dit_step(dims: Dims, buckets: Buckets) -> list[Profile]:
    """R rows, Q of them with a context: guided 2B and B, unguided B and B, negative 2B and 2B."""
    longest = dims.context_tokens + dims.transcript_tokens
    contexts = sorted({min(bucket, longest) for bucket in buckets.contexts})
    counts = range(1, buckets.requests + 1)
    rows = sorted({*counts, *(2 * count for count in counts)})
    return [
        {"P": (tokens,) * 3, "R": (row,) * 3, "Q": (1, (row + 1) // 2, row)}
        for tokens in contexts
        for row in rows
    ]


def _context(dims: Dims, buckets: Buckets) -> list[Profile]:
    usual = max(min(buckets.contexts) - dims.transcript_tokens, 1)
    return [{"n": _up_to(dims.context_tokens, usual=usual)}]


def _static(dims: Dims, buckets: Buckets) -> list[Profile]:
    return [{}]


def _vae_decoder(dims: Dims, buckets: Buckets) -> list[Profile]:
    return [{"B": _ONE, "frames": _up_to(dims.latent_frames)}]


def _vae_encoder(dims: Dims, buckets: Buckets) -> list[Profile]:
    ratio, frames = dims.downsampling_ratio, dims.latent_frames
    return [{"B": _ONE, "samples": _up_to(frames * ratio, least=ratio)}]


def _synchformer(dims: Dims, buckets: Buckets) -> list[Profile]:
    return [{"S": _up_to(SEGMENTS_AT_ONCE)}]


def _audio_tower(dims: Dims, buckets: Buckets) -> list[Profile]:
    return [{"chunks": _up_to(CHUNKS_AT_ONCE)}]


def _vision_tower(dims: Dims, buckets: Buckets) -> list[Profile]:
    least = 1 if dims.thinker is None else dims.thinker.merge**2
    return [
        {"patches": _up_to(patches, least=least), "grids": _up_to(PATCHES_AT_ONCE // patches)}
        for patches in _GRID_PATCHES
        if patches >= least
    ]


def _positions(dims: Dims, most: int | None = None) -> int:
    """So many tokens, or as many as the thinker's context has."""
    longest = _ANSWER_TOKENS if dims.thinker is None else dims.thinker.max_positions
    return longest if most is None else min(most, longest)


def _thinker_embed(dims: Dims, buckets: Buckets) -> list[Profile]:
    return [{"batch": _ONE, "seq": _up_to(_positions(dims), usual=SLICE_TOKENS)}]


def _thinker_cond(dims: Dims, buckets: Buckets) -> list[Profile]:
    ends = sorted({_positions(dims, most) for most in _CONDITIONING_TOKENS})
    return [{"batch": _ONE, "seq": _up_to(most, usual=SLICE_TOKENS)} for most in ends]


def _thinker_lm(dims: Dims, buckets: Buckets) -> list[Profile]:
    """One token after any number; a slice of a prompt after a usual number, and after any."""
    longest = _positions(dims)
    usual = {_positions(dims, _ANSWER_TOKENS), longest}
    return [_answering(1, longest), *(_answering(SLICE_TOKENS, most) for most in sorted(usual))]


def _answering(new: int, most: int) -> Profile:
    """Up to so many new tokens at once after up to `most` that are held."""
    new = min(new, most)
    past = (0, min(SLICE_TOKENS, most), most)
    total = (1, past[1] + new, most + new)
    return {"batch": _ONE, "seq": (1, new, new), "past": past, "total": total}


_PROFILES: Mapping[str, Callable[[Dims, Buckets], list[Profile]]] = {
    "thinker_embed": _thinker_embed,
    "audio_tower": _audio_tower,
    "vision_tower": _vision_tower,
    "thinker_cond": _thinker_cond,
    "thinker_lm": _thinker_lm,
    "synchformer": _synchformer,
    "transcript": _static,
    "context": _context,
    "signal": _static,
    "dit_step": _dit_step,
    "vae_decoder": _vae_decoder,
    "vae_encoder": _vae_encoder,
}
