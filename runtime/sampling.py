"""Prepared requests and noise → latents: one engine, one plan, the C++ loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from omni_rt._core import Sampler
from omni_rt.encode import Context, Floats, Prepared
from omni_rt.engines import Engine
from omni_rt.errors import Cancelled, EngineError, RequestError
from omni_rt.options import OnStep, Sampling

PADDING_BIAS = -1e4  # far enough below any logit, and finite in fp16


class DivergedError(EngineError):
    """The latents became NaN or infinite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimes:
    """Where the seconds of a run went: inside the engine, and in all."""

    engine_s: float
    total_s: float


class DeviceLoop(Protocol):
    """A loop that runs where its engine does."""

    def sample(
        self,
        how: Sampling,
        prepared: Sequence[Prepared],
        *,
        start: Floats,
        renoise: Floats,
        on_step: OnStep | None = None,
    ) -> tuple[Floats, RunTimes]:
        """Latents [B, C, L], and the times. Raises Cancelled or EngineError."""
        ...


@runtime_checkable
class LoopedEngine(Protocol):
    """A `dit_step` that brings its own loop along, on its own device."""

    @property
    def loop(self) -> DeviceLoop:
        """Opened when it is first asked for. Raises EngineError if that cannot be."""
        ...


def stack_contexts(contexts: Sequence[Context], *, tokens: int = 0) -> dict[str, Floats]:
    """The `dit_step` inputs k_00, v_00 … [Q, H, P, d] and context_bias [Q, 1, 1, P].

    Contexts of different lengths are padded with zeros, to `tokens` at least, and hidden by the
    bias.
    """
    longest = max(tokens, *(context.tokens for context in contexts))
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


def step_inputs(
    prepared: Sequence[Prepared], *, guided: bool, tokens: int = 0
) -> dict[str, Floats]:
    """The inputs of `dit_step` that hold for a whole run: prepend, context_bias, k_00, v_00 …"""
    contexts = [p.context for p in prepared]
    if guided and any(p.negative is not None for p in prepared):
        contexts += [_negative(p) for p in prepared]
    branches = 2 if guided else 1
    prepend = np.concatenate([p.prepend for p in prepared] * branches)
    return {"prepend": prepend, **stack_contexts(contexts, tokens=tokens)}


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
) -> tuple[Floats, RunTimes]:
    """Latents [B, C, L] from `start` [B, C, L], and where the time went.

    `renoise` is [rows with c ≠ 0, B, C, L]. With cfg_scale 1 only conditional rows are run.
    Raises Cancelled, EngineError if the engine fails, DivergedError if the result is not finite.
    """
    run = engine.loop.sample if isinstance(engine, LoopedEngine) else partial(_run_here, engine)
    latents, times = run(how, prepared, start=start, renoise=renoise, on_step=on_step)
    if not np.isfinite(latents).all():
        raise DivergedError(
            f"plan {how.plan.name} at cfg_scale {how.cfg_scale:g} gave NaN or infinite latents: "
            "lower cfg_scale, or run `omni-rt verify` on the bundle"
        )
    return latents, times


def _run_here(
    engine: Engine,
    how: Sampling,
    prepared: Sequence[Prepared],
    *,
    start: Floats,
    renoise: Floats,
    on_step: OnStep | None = None,
) -> tuple[Floats, RunTimes]:
    """The loop on the processor, one call of the engine per row."""
    batch, channels, frames = start.shape
    sampler = Sampler(batch=batch, channels=channels, frames=frames, guided=how.guided)
    inputs = step_inputs(prepared, guided=how.guided)
    bound = engine.bind({"x": sampler.x, "t": sampler.t, **inputs, "v": sampler.velocity})
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
    times = RunTimes(engine_s=sampler.engine_s, total_s=sampler.total_s)
    return sampler.x[:batch].copy(), times


def _negative(prepared: Prepared) -> Context:
    if prepared.negative is None:
        raise RequestError("a batch has either negative prompts for all its requests, or for none")
    return prepared.negative
