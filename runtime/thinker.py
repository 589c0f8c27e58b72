"""Prompts of text, sound and video → the thinker's tokens, embeddings and hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from omni_rt.bundle import Bundle
from omni_rt.engine_pool import EnginePool
from omni_rt.errors import RequestError
from omni_rt.feature_cache import FeatureCache, Floats, content_hash
from omni_rt.preprocess import chat
from omni_rt.preprocess.positions import placed
from omni_rt.senses import Heard, Seen

Item: TypeAlias = "Heard | Seen"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """A prompt in tokens. Two prompts whose `keys` and `positions` start alike mean the same."""

    ids: NDArray[np.int64]  # [n], one per media token
    positions: NDArray[np.int64]  # [3, n]
    delta: int  # the position of the k-th token to come is n + delta + k
    keys: NDArray[np.int64]  # [n]: ids, but of media tokens a number that tells their content
    audio_rows: Floats  # [tokens of audio, H], in the order of the ids
    video_rows: Floats

    @property
    def length(self) -> int:
        return len(self.ids)


class Thinker:
    """Lays prompts out and embeds them. Not thread-safe: the pipeline's lock is held around it."""

    def __init__(self, bundle: Bundle, pool: EnginePool, cache: FeatureCache) -> None:
        self._bundle, self._pool, self._cache = bundle, pool, cache

    @cached_property
    def tokenizer(self) -> chat.Tokenizer:
        return chat.Tokenizer(self._bundle.tokenizer_path)

    @property
    def max_positions(self) -> int:
        """Tokens of the thinker's context."""
        return self._bundle.thinker_dims.max_positions

    def prompt(self, text: str, items: Sequence[Item] = ()) -> Prompt:
        """A prompt whose media tags stand for `items`, in this order.

        Raises RequestError if it is longer than the thinker's context.
        """
        special = self._bundle.special_ids
        heard = [item for item in items if isinstance(item, Heard)]
        seen = [item for item in items if isinstance(item, Seen)]
        laid = placed(
            self.tokenizer.encode(text),
            special=special,
            audios=[item.tokens for item in heard],
            videos=[item.layout for item in seen],
        )
        if len(laid.ids) > self.max_positions:
            raise RequestError(
                f"the prompt is {len(laid.ids)} tokens long; the model takes {self.max_positions}: "
                "shorten the recording, the video or the history"
            )
        sounds = [item if isinstance(item, Heard) else item.sound for item in items]
        audible = [sound for sound in sounds if sound is not None]
        is_audio, is_video = laid.ids == special.audio, laid.ids == special.video
        keys = laid.ids.copy()
        for of_media, of_kind in ((is_audio, audible), (is_video, seen)):
            keys[of_media] = np.repeat(
                np.array([_number(item.key) for item in of_kind], np.int64),
                [len(item.embeds) for item in of_kind],
            )
        return Prompt(
            ids=laid.ids,
            positions=laid.positions,
            delta=laid.delta,
            keys=keys,
            audio_rows=self._joined(audible),
            video_rows=self._joined(seen),
        )

    def _joined(self, items: Sequence[Item]) -> Floats:
        width = self._bundle.manifest.dims.hidden_width
        rows = [np.zeros((0, width), np.float32), *(item.embeds for item in items)]
        return np.concatenate(rows)

    def embeds(self, prompt: Prompt, start: int = 0, stop: int | None = None) -> Floats:
        """Embeddings [1, n, H] of a slice of the prompt, media rows in place."""
        special = self._bundle.special_ids
        ids = prompt.ids[start:stop]
        out = self.embedded(ids)
        for token, rows in (
            (special.audio, prompt.audio_rows),
            (special.video, prompt.video_rows),
        ):
            of_media = ids == token
            if len(rows) and of_media.any():
                before = int((prompt.ids[:start] == token).sum())
                out[0, of_media] = rows[before : before + int(of_media.sum())]
        return out

    def embedded(self, ids: NDArray[np.int64]) -> Floats:
        """Embeddings [1, n, H] of ids [n]."""
        found = self._pool.get("thinker_embed").run(input_ids=ids[None])["inputs_embeds"]
        return np.array(found, np.float32)

    def hidden(self, prompt: Prompt) -> Floats:
        """The states [n, H] that condition the transformer."""

        def compute() -> Floats:
            out = self._pool.get("thinker_cond").run(
                inputs_embeds=self.embeds(prompt),
                position_ids=prompt.positions[:, None],
                attention_mask=np.ones((1, prompt.length), np.int64),
            )
            return np.array(out["hidden"][0], np.float32)

        return self._cache.get("thinker_cond", content_hash(prompt.keys, prompt.positions), compute)

    def text_tokens(self, prompt: Prompt) -> int:
        """How many tokens of a prompt are text."""
        return prompt.length - len(prompt.audio_rows) - len(prompt.video_rows)


def _number(key: bytes) -> int:
    """A content hash as a negative number: no token's id."""
    return -1 - (int.from_bytes(key[:8], "little") >> 1)
