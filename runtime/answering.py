"""The decode loop: prompt → tokens, one at a time, with the keys and values of what went before.

The cache outlives an answer: of the next prompt, as much as starts alike is not computed again.
So the turns of a conversation, and the system's turn of any two, cost their new tokens only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_rt.bundle import Bundle
from omni_rt.engine_pool import EnginePool
from omni_rt.errors import Cancelled, EngineError
from omni_rt.feature_cache import Floats
from omni_rt.options import raise_if_cancelled
from omni_rt.thinker import Prompt, Thinker

SLICE_TOKENS = 256  # of a prompt at once: bounds the memory of attention, not the result


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChoice:
    """How a token is picked; temperature 0 is greedy (spec THINKER §5)."""

    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0

    def pick(self, logits: Floats, stream: np.random.RandomState) -> int:
        """A token of logits [vocabulary]: temperature, then top-k, then top-p, in fp64."""
        if self.temperature == 0:
            return int(logits.argmax())
        with np.errstate(over="ignore"):  # a vanishing temperature is greedy
            scaled = (logits.astype(np.float64) - float(logits.max())) / self.temperature
        order = np.argsort(-scaled, kind="stable")
        order = order[: self.top_k] if self.top_k else order
        weights = np.exp(scaled[order] - scaled[order[0]])
        weights /= weights.sum()
        # the smallest set of likeliest tokens that holds top_p; never empty
        kept = 1 + int((np.cumsum(weights)[:-1] < self.top_p).sum())
        bounds = np.cumsum(weights[:kept])
        drawn = stream.random_sample() * bounds[-1]
        return int(order[min(int(np.searchsorted(bounds, drawn, side="right")), kept - 1)])


class KeyValueCache:
    """Keys and values of the tokens seen last, and what tells those tokens."""

    def __init__(self, bundle: Bundle) -> None:
        thinker = bundle.thinker_dims
        empty = np.zeros((1, thinker.kv_heads, 0, thinker.head_width), np.float32)
        self._names = [f"{part}_{i:02d}" for i in range(thinker.layers) for part in "kv"]
        self._arrays = dict.fromkeys(self._names, empty)
        self._keys = np.zeros(0, np.int64)
        self._positions = np.zeros((3, 0), np.int64)

    @property
    def length(self) -> int:
        return len(self._keys)

    @property
    def inputs(self) -> dict[str, Floats]:
        """past_k_00, past_v_00 …: what the graph takes."""
        return {f"past_{name}": self._arrays[name] for name in self._names}

    def shared(self, prompt: Prompt) -> int:
        """How many of the prompt's first tokens are in the cache, at the same positions."""
        n = min(self.length, prompt.length)
        same = self._keys[:n] == prompt.keys[:n]
        same &= (self._positions[:, :n] == prompt.positions[:, :n]).all(axis=0)
        return n if same.all() else int(same.argmin())

    def cut(self, length: int) -> None:
        """Forget all tokens after the first `length`."""
        if length < self.length:
            arrays = self._arrays.items()
            self._arrays = {name: a[:, :, :length].copy() for name, a in arrays}
            self._keys, self._positions = self._keys[:length], self._positions[:, :length]

    def extend(
        self,
        out: dict[str, NDArray[np.generic]],
        keys: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> None:
        """Take the graph's present_k_00, present_v_00 … for these new tokens."""
        self._arrays = {n: np.asarray(out[f"present_{n}"], np.float32) for n in self._names}
        self._keys = np.concatenate([self._keys, keys])
        self._positions = np.concatenate([self._positions, positions], axis=1)


class Answerer:
    """Answers prompts. Not thread-safe: the pipeline's lock is held around it."""

    def __init__(self, bundle: Bundle, pool: EnginePool, thinker: Thinker) -> None:
        self._bundle, self._pool, self._thinker = bundle, pool, thinker
        self._cache: KeyValueCache | None = None
        self.finished = False  # the last answer ended by itself

    def known(self, prompt: Prompt) -> int:
        """How many of the prompt's tokens need not be run."""
        cached = self._cache
        return 0 if cached is None else min(cached.shared(prompt), prompt.length - 1)

    def forget(self) -> None:
        """Let go of the cached keys and values."""
        self._cache = None

    def tokens(
        self,
        prompt: Prompt,
        choice: TokenChoice,
        *,
        seed: int,
        most: int,
        cancel: threading.Event | None = None,
    ) -> Iterator[int]:
        """At most `most` tokens of the answer; the one that ends it is not among them.

        Raises Cancelled between tokens, EngineError if the logits are not finite.
        """
        self.finished = False
        stop, stream = self._bundle.special_ids.stop, np.random.RandomState(seed)
        if self._cache is None:
            self._cache = KeyValueCache(self._bundle)
        cache = self._cache
        try:
            logits = self._prefill(cache, prompt, cancel)
            for count in range(most):
                token = choice.pick(logits, stream)
                if token in stop:
                    self.finished = True
                    return
                yield token
                if count + 1 < most:
                    raise_if_cancelled(cancel)
                    at = np.full((3, 1), cache.length + prompt.delta)
                    ids = np.array([token])
                    logits = self._run(cache, self._thinker.embedded(ids), ids, at)
        except (Cancelled, EngineError):
            self.forget()  # what is half done is of no use
            raise

    def _prefill(
        self, cache: KeyValueCache, prompt: Prompt, cancel: threading.Event | None
    ) -> Floats:
        """Logits after the prompt, of which the last token at least is run."""
        cache.cut(self.known(prompt))
        logits: Floats | None = None
        while cache.length < prompt.length:
            raise_if_cancelled(cancel)
            part = slice(cache.length, cache.length + SLICE_TOKENS)
            embeds = self._thinker.embeds(prompt, part.start, part.stop)
            logits = self._run(cache, embeds, prompt.keys[part], prompt.positions[:, part])
        assert logits is not None
        return logits

    def _run(
        self,
        cache: KeyValueCache,
        embeds: Floats,
        keys: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> Floats:
        """Run new tokens after the cached ones; logits [vocabulary] of the last."""
        total = cache.length + embeds.shape[1]
        out = self._pool.get("thinker_lm").run(
            inputs_embeds=embeds,
            position_ids=positions[:, None],
            attention_mask=np.ones((1, total), np.int64),
            **cache.inputs,
        )
        logits = np.asarray(out["logits"][0, -1], np.float32)
        if not np.isfinite(logits).all():
            raise EngineError("thinker_lm gave NaN or infinite logits: run `omni-rt verify`")
        cache.extend(out, keys, positions)
        return logits
