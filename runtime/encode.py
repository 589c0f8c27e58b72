"""Requests → conditioning (the model's four inputs) → what the loop needs (context, prepend)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from omni_rt.bundle import Bundle
from omni_rt.engine_pool import EnginePool
from omni_rt.errors import RequestError
from omni_rt.manifest import Dims
from omni_rt.preprocess import chat, transcript
from omni_rt.preprocess.waveform import fitted, mono, read_clip
from omni_rt.senses import Senses
from omni_rt.tasks import VOICE_S, Edit, Request
from omni_rt.thinker import Item, Thinker
from omni_rt.video import Window

Floats = NDArray[np.float32]

_log = logging.getLogger("omni_rt")

# Text beyond this many times the model's context is refused, not squeezed into it.
_LONGEST_PROMPT = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditioning:
    """The model's inputs for one request, before any of its own weights.

    hidden: thinker states [n, W]. transcript_ids: [m] before the +1 shift, or None for no speech.
    waveform: [samples] at the model's rate, or None for silence. sync: [rows, width] or None.
    mel_keep: [frames], False where the log-mel is masked, or None for all True.
    negative_hidden: states of a negative prompt, or None for the unconditional branch.
    """

    hidden: Floats
    transcript_ids: NDArray[np.int64] | None = None
    waveform: Floats | None = None
    sync: Floats | None = None
    mel_keep: NDArray[np.bool_] | None = None
    negative_hidden: Floats | None = None

    @classmethod
    def from_arrays(
        cls,
        *,
        hidden: ArrayLike,
        transcript_ids: ArrayLike | None = None,
        waveform: ArrayLike | None = None,
        sync: ArrayLike | None = None,
        mel_keep: ArrayLike | None = None,
        negative_hidden: ArrayLike | None = None,
    ) -> Conditioning:
        """From plain arrays of one request, without a batch axis.

        Raises RequestError for a wrong rank or values that are not finite. Over-long `hidden` is
        interpolated to the model's context when it is used, as the original does.
        """
        ids = None if transcript_ids is None else transcript.checked_ids(transcript_ids)
        return cls(
            hidden=as_floats(hidden, "hidden", rank=2),
            transcript_ids=ids,
            waveform=None if waveform is None else as_floats(waveform, "waveform", rank=1),
            sync=None if sync is None else as_floats(sync, "sync", rank=2),
            mel_keep=None if mel_keep is None else as_floats(mel_keep, "mel_keep", rank=1) != 0,
            negative_hidden=(
                None
                if negative_hidden is None
                else as_floats(negative_hidden, "negative_hidden", rank=2)
            ),
        )


def as_floats(value: ArrayLike, name: str, *, rank: int | None = None) -> Floats:
    """A caller's array as float32, checked: numbers, not empty, finite, of this many axes."""
    try:
        array = np.asarray(value, dtype=np.float32, order="C")
    except (TypeError, ValueError) as error:
        raise RequestError(f"{name} is no array of numbers: {error}") from error
    if (rank is not None and array.ndim != rank) or array.size == 0:
        axes = "" if rank is None else f"have {rank} axes and "
        raise RequestError(f"{name} must {axes}not be empty, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise RequestError(f"{name} holds NaN or infinite values")
    return array


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Keys and values of every layer's cross-attention, [1, H, P, d] each."""

    keys: Sequence[Floats]
    values: Sequence[Floats]

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.generic]], *, depth: int) -> Context:
        """From k_00, v_00, k_01 … as the `context` graph names them."""
        keys, values = (
            [np.asarray(arrays[f"{part}_{i:02d}"], np.float32) for i in range(depth)]
            for part in "kv"
        )
        return cls(keys=keys, values=values)

    @property
    def tokens(self) -> int:
        """P."""
        return int(self.keys[0].shape[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the loop needs of one request."""

    context: Context
    negative: Context | None
    prepend: Floats  # [1, N, D]


class Encoder:
    """Runs the stages before the loop."""

    def __init__(self, bundle: Bundle, pool: EnginePool, senses: Senses, thinker: Thinker) -> None:
        self._bundle, self._pool = bundle, pool
        self._senses, self._thinker = senses, thinker

    @property
    def _dims(self) -> Dims:
        return self._bundle.manifest.dims

    def encode(
        self,
        request: Request,
        *,
        windows: Iterable[Window] = (),
        negative_prompt: str | None = None,
        cancel: threading.Event | None = None,
    ) -> list[Conditioning]:
        """The conditioning of a request, or of each window of its video."""
        words = request.spoken()
        ids = None if words is None else transcript.transcript_ids(words, self._bundle.vocabulary)
        if ids is not None and len(ids) > self._dims.transcript_ids:
            raise RequestError(
                f"the transcript is {len(ids)} characters long; "
                f"at most {self._dims.transcript_ids} fit: split the text"
            )
        user = request.user_text(self._bundle.prompts)
        example = request.example()
        items: list[Item] = []
        if example is not None:
            items.append(self._senses.heard(read_clip(example, what="audio"), cancel))
        negative = None
        if negative_prompt is not None:
            text = chat.check_text(negative_prompt, what="negative_prompt")
            negative = self._hidden(request.system, request.negative_text(text), ())
        footage = request.footage()
        if footage is None:
            return [
                Conditioning(
                    hidden=self._hidden(request.system, user, items),
                    transcript_ids=ids,
                    waveform=self._waveform(request),
                    negative_hidden=negative,
                )
            ]
        looked = [  # every window is seen before any is thought about: phases take turns
            (
                self._senses.seen(window.slow_frames, as_they_are=footage.small, cancel=cancel),
                self._senses.sync(window.sync_frames, cancel),
            )
            for window in windows
        ]
        return [
            Conditioning(
                hidden=shorten(
                    self._hidden(request.system, user, [seen, *items]), self._dims.context_tokens
                ),
                sync=sync,
                negative_hidden=negative,
            )
            for seen, sync in looked
        ]

    def _waveform(self, request: Request) -> Floats | None:
        given = request.clip()
        if given is None:
            return None
        editing = isinstance(request, Edit)
        clip = read_clip(given, what="source" if editing else "voice")
        rate, window = self._dims.sample_rate_hz, self._dims.window_samples
        kept = window if editing else min(window, round(VOICE_S * rate))
        return fitted(mono(clip, rate_hz=rate)[:kept], window)

    def _hidden(self, system: str, user: str, items: Sequence[Item]) -> Floats:
        """Thinker states [n, W] of a system and a user turn."""
        text = chat.layout(self._bundle.prompts[system], user)
        prompt = self._thinker.prompt(text, items)
        words, most = self._thinker.text_tokens(prompt), self._dims.context_tokens
        if words > _LONGEST_PROMPT * most:
            raise RequestError(
                f"the prompt is {words} tokens long; at most {_LONGEST_PROMPT * most} are accepted"
            )
        if words > most:
            _log.warning("prompt of %d tokens: interpolated to the %d of the model", words, most)
        return self._thinker.hidden(prompt)

    def prepare(self, conditioning: Conditioning, *, with_negative: bool) -> Prepared:
        """Keys, values and prepended tokens: all that does not change over the steps."""
        speech = self.transcript_tokens(conditioning.transcript_ids)
        negative = None
        if with_negative and conditioning.negative_hidden is not None:
            negative = self.context(conditioning.negative_hidden, self._bundle.empty_transcript)
        return Prepared(
            context=self.context(conditioning.hidden, speech),
            negative=negative,
            prepend=self.prepend(conditioning),
        )

    def transcript_tokens(self, ids: NDArray[np.int64] | None) -> Floats:
        """[1, 256, 768] of a transcript's ids, or of silence."""
        if ids is None:
            return self._bundle.empty_transcript
        row = transcript.filled(ids, self._dims.transcript_ids)
        return np.asarray(self._pool.get("transcript").run(ids=row)["transcript"], np.float32)

    def context(self, hidden: Floats, speech: Floats) -> Context:
        """Keys and values from states [n, W] and transcript tokens [1, 256, 768]."""
        if hidden.shape[1] != self._dims.hidden_width:
            raise RequestError(f"hidden must be [n, {self._dims.hidden_width}], got {hidden.shape}")
        hidden = shorten(hidden, self._dims.context_tokens)
        out = self._pool.get("context").run(hidden=hidden[None], transcript=speech)
        return Context.of(out, depth=self._dims.depth)

    def prepend(self, conditioning: Conditioning) -> Floats:
        """[1, N, D] from the waveform, its mask and the sync features, absent ones silent."""
        wave, sync, keep = conditioning.waveform, conditioning.sync, conditioning.mel_keep
        if wave is not None or sync is not None or keep is not None:
            return self._prepended(wave, sync, keep)
        return self._silent_prepend

    @cached_property
    def _silent_prepend(self) -> Floats:
        """The same for every request that is words alone."""
        return self._prepended(None, None, None)

    def _prepended(
        self, wave: Floats | None, sync: Floats | None, keep: NDArray[np.bool_] | None
    ) -> Floats:
        dims = self._dims
        if wave is None:
            wave = np.zeros(dims.window_samples, np.float32)
        if sync is None:
            sync = np.zeros((dims.sync_rows, dims.sync_width), np.float32)
        if keep is None:
            keep = np.ones(dims.mel_frames, bool)
        for name, array, shape in (
            ("waveform", wave, (dims.window_samples,)),
            ("sync", sync, (dims.sync_rows, dims.sync_width)),
            ("mel_keep", keep, (dims.mel_frames,)),
        ):
            if array.shape != shape:
                raise RequestError(f"{name} must have shape {shape}, got {array.shape}")
        out = self._pool.get("signal").run(
            waveform=wave[None], mel_keep=keep[None], sync=sync[None]
        )
        return np.asarray(out["prepend"], np.float32)


def shorten(hidden: Floats, tokens: int) -> Floats:
    """States [n, W] to at most `tokens` rows: linear interpolation, half-pixel centres.

    Source: spec THINKER §4; the original's over-long rule.
    """
    length = len(hidden)
    if length <= tokens:
        return hidden
    position = np.maximum((np.arange(tokens) + 0.5) * (length / tokens) - 0.5, 0.0)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, length - 1)
    weight = (position - low).astype(np.float32)[:, None]
    out: Floats = (1 - weight) * hidden[low] + weight * hidden[high]
    return out
