"""How long the thinker takes to read and to answer, by how much it already holds in its cache."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from omni_rt.answering import SLICE_TOKENS
from omni_rt.engines import Array, Engine
from omni_rt.manifest import Dims, ThinkerDims
from omni_rt.timing import WARM_UP_RUNS, Timing

PREFILL_TOKENS = 100
RERUN_TOKENS = 512
_HELD = (16, 128, 512, 1024, 2048)
_STEPS = 4  # tokens per run, the cache growing by one each


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkerBench:
    """Seconds of the language model."""

    prefill_100: Timing  # per 100 tokens, from an empty cache
    token: Mapping[int, Timing]  # per token of an answer, by the tokens held before it
    rerun_512: Timing  # one token without a cache: 512 tokens run again, in a prompt's slices

    @property
    def cache_gain(self) -> float | None:
        """How many times faster the cache makes a token at 512; None if it was not measured."""
        held = self.token.get(RERUN_TOKENS)
        return None if held is None else self.rerun_512.p50_s / held.p50_s


def bench_thinker(engine: Engine, dims: Dims, *, runs: int) -> ThinkerBench:
    """Time `thinker_lm` alone; random embeddings and caches take as long as real ones."""
    assert dims.thinker is not None
    thinker, stream = dims.thinker, np.random.RandomState(0)
    held = [tokens for tokens in _HELD if tokens + _STEPS <= thinker.max_positions]

    def seconds(past: int, parts: Sequence[int], *, per: int = 1) -> Timing:
        """Of runs with so many new tokens each, one after another, divided by `per`."""
        found = []
        for _ in range(WARM_UP_RUNS + runs):
            cache = _cache(thinker, past, stream)
            start = time.perf_counter()
            for before, new in zip(accumulate(parts, initial=past), parts, strict=False):
                cache = _extended(engine, dims, cache, before, new)
            found.append((time.perf_counter() - start) / per)
        return Timing.of(found[WARM_UP_RUNS:])

    return ThinkerBench(
        prefill_100=seconds(0, [PREFILL_TOKENS]),
        token={tokens: seconds(tokens, [1] * _STEPS, per=_STEPS) for tokens in held},
        rerun_512=seconds(0, _slices(min(RERUN_TOKENS, thinker.max_positions))),
    )


def _slices(tokens: int) -> list[int]:
    """As many tokens at once as a session runs of a prompt, which engines are compiled for."""
    starts = range(0, tokens, SLICE_TOKENS)
    return [min(SLICE_TOKENS, tokens - start) for start in starts]


def _cache(thinker: ThinkerDims, tokens: int, stream: np.random.RandomState) -> list[Array]:
    shape = (1, thinker.kv_heads, tokens, thinker.head_width)
    return [stream.standard_normal(shape).astype(np.float32) for _ in range(2 * thinker.layers)]


def _extended(
    engine: Engine, dims: Dims, cache: Sequence[Array], past: int, new: int
) -> list[Array]:
    """The cache after `new` more tokens."""
    names = [port.name for port in engine.inputs if port.name.startswith("past_")]
    positions = np.arange(past, past + new)
    out = engine.run(
        inputs_embeds=np.full((1, new, dims.hidden_width), 0.02, np.float32),
        position_ids=np.broadcast_to(positions, (3, 1, new)).astype(np.int64),
        attention_mask=np.ones((1, past + new), np.int64),
        **dict(zip(names, cache, strict=True)),
    )
    return [out["present" + name.removeprefix("past")] for name in names]
