"""The three phases on one bundle's engines, one request at a time: encode, sample, decode."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike

from omni_rt.answering import Answerer
from omni_rt.audio import Audio, Samples, peak_normalised
from omni_rt.bundle import Bundle
from omni_rt.encode import Conditioning, Encoder, Floats, as_floats
from omni_rt.engine_pool import EnginePool
from omni_rt.errors import Cancelled, RequestError
from omni_rt.options import InitialLatents, OnStep, Sampling, raise_if_cancelled
from omni_rt.preprocess.waveform import channels_as, fitted
from omni_rt.preprocess.whisper_mel import MAX_S
from omni_rt.sampling import Noise, run_plan
from omni_rt.senses import Heard, Seen, Senses
from omni_rt.soundtrack import sound
from omni_rt.tasks import Footage, Request
from omni_rt.thinker import Item, Thinker
from omni_rt.understanding import (
    Answering,
    Reply,
    Turn,
    VideoBudget,
    conversation_text,
    text_pieces,
)
from omni_rt.video import Window, probe, understanding_frames

MAX_BATCH = 64
MAX_RENOISE_BYTES = 1 << 30
_ALWAYS_NEEDED = ("context", "signal", "dit_step", "vae_decoder")
_CANCEL_POLL_S = 0.05


def check_batch(size: int) -> None:
    """Raise RequestError for an empty batch or one beyond the limit."""
    if not 1 <= size <= MAX_BATCH:
        raise RequestError(f"a batch holds 1 to {MAX_BATCH} requests, got {size}")


class Pipeline:
    """Thread-safe: whoever comes second waits, and can be cancelled while waiting."""

    def __init__(self, bundle: Bundle, pool: EnginePool) -> None:
        self.bundle, self.dims = bundle, bundle.manifest.dims
        self._pool, self._senses = pool, Senses(bundle, pool)
        self._thinker = Thinker(bundle, pool, self._senses.cache)
        self._encoder = Encoder(bundle, pool, self._senses, self._thinker)
        self._answerer = Answerer(bundle, pool, self._thinker)
        self._lock = threading.Lock()
        self._holder: int | None = None  # the thread whose request runs

    @contextmanager
    def _exclusive(self, cancel: threading.Event | None = None) -> Iterator[None]:
        if self._holder == threading.get_ident():
            raise RequestError("a callback may not use the session whose request it is told about")
        while not self._lock.acquire(timeout=_CANCEL_POLL_S):
            if cancel is not None and cancel.is_set():
                raise Cancelled("cancelled by the caller while waiting for another request")
        self._holder = threading.get_ident()
        try:
            raise_if_cancelled(cancel)
            yield
        finally:
            self._holder = None
            self._lock.release()

    def require(self, *stages: str) -> None:
        """Raise BundleError now if the bundle lacks one of these, or what every request needs."""
        for stage in ("thinker_embed", "thinker_cond", *_ALWAYS_NEEDED, *stages):
            self.bundle.graph(stage)

    def require_answers(self, *, hears: bool, sees: bool) -> None:
        """Raise BundleError now if the bundle lacks what an answer needs."""
        towers = ["audio_tower"] * hears + ["vision_tower"] * sees
        for stage in ("thinker_embed", "thinker_lm", *towers):
            self.bundle.graph(stage)

    def encode(
        self,
        request: Request,
        negative_prompt: str | None,
        cancel: threading.Event | None = None,
        *,
        windows: Iterable[Window] = (),
    ) -> list[Conditioning]:
        """The model's inputs for a request: one, or for a video one per window."""
        with self._exclusive(cancel):
            return self._encoder.encode(
                request, windows=windows, negative_prompt=negative_prompt, cancel=cancel
            )

    def heard(self, clip: Audio, cancel: threading.Event | None = None) -> Heard:
        """A recording as the thinker's tokens."""
        with self._exclusive(cancel):
            return self._senses.heard(clip, cancel)

    def watched(
        self, footage: Footage, *, with_sound: bool, cancel: threading.Event | None = None
    ) -> Seen:
        """A video to be understood, and its sound if it has one, as the thinker's tokens."""
        heard = None
        if with_sound and probe(footage.path).has_audio:
            self.bundle.graph("audio_tower")
            track = sound(footage.path, allow_damaged=footage.allow_damaged)
            if track is not None and track.duration_s > MAX_S:
                raise RequestError(
                    f"the video's sound lasts {track.duration_s:.0f} s; at most {MAX_S} s are "
                    "heard: leave it out with video_sound=False (--no-sound), or cut the video"
                )
            heard = None if track is None else self.heard(track, cancel)
        budget = VideoBudget(
            context_tokens=self.bundle.thinker_dims.max_positions,
            sound_tokens=0 if heard is None else heard.tokens,
            small=footage.small,
        )
        frames = understanding_frames(
            footage.path,
            most_frames=budget.most_frames,
            rule=footage.rule,
            allow_damaged=footage.allow_damaged,
            size=budget.size,
            cancel=cancel,
        )
        with self._exclusive(cancel):
            return self._senses.seen(frames, as_they_are=True, sound=heard, cancel=cancel)

    def answer(
        self, history: Sequence[Turn], question: str, media: Sequence[Item], how: Answering
    ) -> Reply:
        """An answer of the thinker, told to `how.stream` as it comes."""
        system = self.bundle.prompts["SYSTEM_UNDERSTANDING"]
        text = conversation_text(system, history, question, media)
        before = [item for turn in history for item in turn.media]
        with self._exclusive(how.cancel):
            prompt = self._thinker.prompt(text, [*before, *media])
            room = self._thinker.max_positions - prompt.length
            if room < 1:
                raise RequestError(f"the prompt of {prompt.length} tokens leaves no room to answer")
            most = min(how.max_new_tokens, room)
            reused = self._answerer.known(prompt)
            tokens = self._answerer.tokens(
                prompt, how.choice, seed=how.seed, most=most, cancel=how.cancel
            )
            count, answer = 0, ""
            for count, piece in text_pieces(self._thinker.tokenizer, tokens):  # noqa: B007
                answer += piece
                if piece and how.stream is not None:
                    how.stream(piece)
            complete = self._answerer.finished
        return Reply(
            text=answer,
            history=(*history, Turn(question=question, answer=answer, media=tuple(media))),
            tokens=count,
            complete=complete,
            seed=how.seed,
            prompt_tokens=prompt.length,
            reused_tokens=reused,
        )

    def initial_latents(
        self, clip: Audio, *, strength: float, cancel: threading.Event | None = None
    ) -> InitialLatents:
        """What the encoder makes of a clip to vary."""
        dims = self.dims
        stereo = channels_as(clip, channels=dims.audio_channels, rate_hz=dims.sample_rate_hz)
        window = fitted(stereo, dims.latent_frames * dims.downsampling_ratio)
        with self._exclusive(cancel):
            out = self._pool.get("vae_encoder").run(waveform=window[None])
        mean, std = (np.asarray(out[name], np.float32) for name in ("mean", "std"))
        return InitialLatents(mean=mean, std=std, sigma=1 - strength)

    def latents(
        self,
        conditionings: Sequence[Conditioning],
        seeds: Sequence[int],
        how: Sampling,
        *,
        on_step: OnStep | None,
        noise: ArrayLike | None = None,
    ) -> Floats:
        """Latents [B, C, L]; `noise` replaces the seeds' initial noise."""
        check_batch(len(conditionings))
        if len(seeds) != len(conditionings):
            raise RequestError(f"{len(seeds)} seeds for {len(conditionings)} requests")
        streams = [
            Noise(seed, (self.dims.latent_channels, self.dims.latent_frames)) for seed in seeds
        ]
        if how.plan.grid[0] < 1 and how.initial is None and noise is None:
            raise RequestError(
                f"plan {how.plan.name!r} starts at σ = {how.plan.grid[0]:g}: "
                "give init_audio or noise"
            )
        if how.plan.renoise_rows * len(seeds) * streams[0].initial.nbytes > MAX_RENOISE_BYTES:
            raise RequestError(f"plan {how.plan.name!r} draws too much noise: use fewer steps")
        start = np.stack([stream.initial for stream in streams])
        if noise is not None:
            start = _checked_noise(noise, start.shape)
        if how.initial is not None:
            start = _towards(how.initial, start, np.stack([stream.encoder for stream in streams]))
        rows = [[stream.draw() for stream in streams] for _ in range(how.plan.renoise_rows)]
        with self._exclusive(how.cancel):
            if self._pool.staged:  # an answer's keys and values would lie beside the transformer
                self._answerer.forget()
            prepared = [self._encoder.prepare(c, with_negative=how.guided) for c in conditionings]
            found, _ = run_plan(
                self._pool.get("dit_step"),
                how,
                prepared,
                start=start,
                renoise=np.array(rows, np.float32),
                on_step=on_step,
            )
        return found

    def decode(self, latents: ArrayLike, cancel: threading.Event | None = None) -> Floats:
        """Waveform [B, 2, samples] of latents [B, C, L], item by item to bound the memory."""
        channels = self.dims.latent_channels
        array = as_floats(latents, "latents", rank=3)
        if array.shape[1] != channels:
            raise RequestError(f"latents must be [B, {channels}, L], got {array.shape}")
        clips = []
        with self._exclusive(cancel):
            engine = self._pool.get("vae_decoder")
            for item in array:
                raise_if_cancelled(cancel)
                clips.append(engine.run(latents=item[None])["waveform"])
        return np.asarray(np.concatenate(clips), np.float32)

    def clips(
        self,
        conditionings: Sequence[Conditioning],
        seeds: Sequence[int],
        how: Sampling,
        on_step: OnStep | None,
    ) -> list[Samples]:
        """A clip [2, samples] of one window for each conditioning, normalised if asked for."""
        latents = self.latents(conditionings, seeds, how, on_step=on_step)
        waveforms = self.decode(latents, how.cancel)
        return [peak_normalised(clip) if how.normalise else clip for clip in waveforms]

    def load_all(self) -> None:
        """Load every engine of the bundle."""
        with self._exclusive():
            for stage in self.bundle.manifest.graphs:
                self._pool.get(stage)

    def close(self) -> None:
        """Let go of the engines once the phase that runs is done."""
        with self._exclusive():
            self._pool.close()
            self._answerer.forget()
            self._senses.cache.clear()


def _towards(initial: InitialLatents, noise: Floats, encoder_noise: Floats) -> Floats:
    """X = clip·(1−σ) + noise·σ, the clip drawn from its distribution (spec UPSTREAM §4, §6)."""
    clip = initial.mean + initial.std * encoder_noise
    mixed: Floats = np.float32(1 - initial.sigma) * clip + np.float32(initial.sigma) * noise
    return mixed


def _checked_noise(noise: ArrayLike, shape: tuple[int, ...]) -> Floats:
    array = as_floats(noise, "noise")
    array = array[None] if array.shape == shape[1:] else array
    if array.shape != shape:
        raise RequestError(f"noise must have shape {shape}, got {array.shape}")
    return array
