"""Prepared requests and noise → latents: one engine, one plan, the C++ loop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omni_rt._core import Sampler
from omni_rt.encode import Context, Floats, Prepared
from omni_rt.engines import Engine
from omni_rt.errors import Cancelled, EngineError, RequestError
from omni_rt.options import OnStep, Sampling

PADDING_BIAS = -1e4  # far enough below any logit, and finite in fp16


def stack_contexts(contexts: Sequence[Context]) -> dict[str, Floats]:
    """The `dit_step` inputs k_00, v_00 … [Q, H, P, d] and context_bias [Q, 1, 1, P].

    Contexts of different lengths are padded with zeros and hidden by the bias.
    """
    longest = max(context.tokens for context in contexts)
    bias = np.full((len(contexts), 1, 1, longest), PADDING_BIAS, np.float32)
    for row, context in zip(bias, contexts, strict=True):
        row[..., : context.tokens] = 0.0
    inputs = {"context_bias": bias}
    for layer in range(len(contexts[0].keys)):
        inputs[f"k_{layer:02d}"] = _padded([c.keys[layer] for c in contexts], longest)
        inputs[f"v_{layer:02d}"] = _padded([c.values[layer] for c in contexts], longest)
    return inputs


def _padded(parts: Sequence[Floats], tokens: int) -> Floats:
    rows = [np.pad(p, [(0, 0), (0, 0), (0, tokens - p.shape[2]), (0, 0)]) for p in parts]
    return np.concatenate(rows)


class Noise:
    """All the noise of one request: a stream of its own, so it depends on the seed alone.

    `numpy.random.RandomState`, whose streams are frozen: the same numbers on every device, at
    every place in a batch. Drawn in the order initial noise, encoder noise, re-noising rows.
    """

    def __init__(self, seed: int, shape: tuple[int, int]) -> None:
        self._stream, self._shape = np.random.RandomState(seed), shape
        self.initial = self.draw()
        self.encoder = self.draw()

    def draw(self) -> Floats:
        """The next [C, L] of the stream."""
        return self._stream.standard_normal(self._shape).astype(np.float32)


def run_plan(
    engine: Engine,
    how: Sampling,
    prepared: Sequence[Prepared],
    *,
    start: Floats,
    renoise: Floats,
    on_step: OnStep | None = None,
) -> tuple[Floats, Sampler]:
    """Latents [B, C, L] from `start` [B, C, L], and the sampler that made them.

    `renoise` is [rows with c ≠ 0, B, C, L]. With cfg_scale 1 only conditional rows are run.
    Raises Cancelled, and EngineError if the engine fails or the result is not finite.
    """
    batch, channels, frames = start.shape
    sampler = Sampler(batch=batch, channels=channels, frames=frames, guided=how.guided)
    contexts = [p.context for p in prepared]
    if how.guided and any(p.negative is not None for p in prepared):
        contexts += [_negative(p) for p in prepared]
    branches = 2 if how.guided else 1
    bound = engine.bind(
        {
            "x": sampler.x,
            "t": sampler.t,
            "prepend": np.concatenate([p.prepend for p in prepared] * branches),
            **stack_contexts(contexts),
            "v": sampler.velocity,
        }
    )
    sampler.x[:batch] = start
    finished = sampler.run(
        how.plan.table(),
        bound.enqueue,
        renoise=renoise,
        cfg_scale=how.cfg_scale,
        rescale=how.rescale,
        on_row=on_step,
        cancelled=None if how.cancel is None else how.cancel.is_set,
    )
    if not finished:
        raise Cancelled("cancelled by the caller")
    latents = sampler.x[:batch].copy()
    if not np.isfinite(latents).all():
        raise EngineError(
            f"plan {how.plan.name} at cfg_scale {how.cfg_scale:g} gave NaN or infinite latents: "
            "lower cfg_scale, or run `omni-rt verify` on the bundle"
        )
    return latents, sampler


def _negative(prepared: Prepared) -> Context:
    if prepared.negative is None:
        raise RequestError("a batch has either negative prompts for all its requests, or for none")
    return prepared.negative
