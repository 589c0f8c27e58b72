"""`Session`: what apps call. Request → encode → sample → decode → audio."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from omni_rt.audio import Audio, Samples
from omni_rt.bundle import Bundle, Progress
from omni_rt.encode import Conditioning, Floats
from omni_rt.engine_pool import Device, EnginePool, Memory, check_machine
from omni_rt.errors import BundleError, RequestError
from omni_rt.longform import edited, finished, generated, requested_samples
from omni_rt.options import (
    OnStep,
    Sampling,
    checked_duration,
    checked_seed,
    checked_strength,
    nth_seed,
)
from omni_rt.pipeline import Pipeline, check_batch
from omni_rt.plans import Plan, make_plan
from omni_rt.preprocess.waveform import read_clip
from omni_rt.tasks import EDITING, GENERATION, VOICE_S, Clip, Edit, Request, make_request

DEFAULT_DURATION_S = 10.0


class Session:
    """A bundle, ready for requests. Thread-safe: requests run one after another.

    memory: "resident" keeps every engine that was used; "staged" only those of one phase.
    Raises BundleError if the bundle is damaged, or its parity certificate is missing or fails
    (unless `allow_uncertified`).
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        device: Device = "auto",
        threads: int | None = None,
        memory: Memory = "resident",
        allow_uncertified: bool = False,
        progress: Progress | None = None,
    ) -> None:
        check_machine(device, threads, memory)
        if not isinstance(bundle, (str, Path)):
            raise BundleError(f"a bundle is the path of a directory, got {bundle!r}")
        self.bundle = Bundle.open(bundle, progress=progress)
        if not allow_uncertified:
            self.bundle.require_certificate()
        pool = EnginePool(self.bundle, device=device, threads=threads, memory=memory)
        self._pipeline = Pipeline(self.bundle, pool)

    @property
    def sample_rate_hz(self) -> int:
        return self.bundle.manifest.dims.sample_rate_hz

    def generate(
        self,
        task: str,
        *,
        prompt: str | None = None,
        voice: Clip | None = None,
        voice_transcript: str | None = None,
        transcript: str | None = None,
        negative_prompt: str | None = None,
        init_audio: Clip | None = None,
        init_strength: float | None = None,
        duration_s: float | None = None,
        plan: str | Plan | None = None,
        cfg_scale: float = 7.0,
        rescale: float = 0.0,
        seed: int | None = None,
        normalise: bool = True,
        on_step: OnStep | None = None,
        cancel: threading.Event | None = None,
    ) -> Audio:
        """Sound for a task: "T2A", "T2M", "TTS" or "VC" (see `omni_rt.tasks` for what each takes).

        init_audio: a clip to vary; init_strength in (0, 1) says how much of it remains: sampling
        starts at σ = 1 − init_strength from clip·(1−σ) + noise·σ. duration_s: 10, or one window if
        that is shorter; trimmed below one window (10.96 s officially), joined from segments above
        it (T2A, T2M). normalise: divide by
        the peak, as the original does. on_step(done, total) is called after every step; `cancel`
        stops within one. The same seed gives the same bits; None draws one (see `Audio.made`).

        Raises RequestError, Cancelled or EngineError; the session stays usable after each.
        """
        given = {
            "prompt": prompt,
            "voice": voice,
            "voice_transcript": voice_transcript,
            "transcript": transcript,
        }
        request = make_request(task, given, among=GENERATION)
        how = self._sampling(plan, cfg_scale, rescale, normalise, on_step, cancel)
        if init_audio is not None:
            how = self._starting_from(init_audio, init_strength, how)
        elif init_strength is not None:
            raise RequestError("init_strength is given without init_audio")
        seed = checked_seed(seed)
        pieces = self._pieces(request, how, seed, duration_s, negative_prompt)
        return self._audio(pieces, request, how, seed)

    def generate_segments(
        self,
        request: Request,
        *,
        duration_s: float,
        negative_prompt: str | None = None,
        plan: str | Plan | None = None,
        cfg_scale: float = 7.0,
        rescale: float = 0.0,
        seed: int | None = None,
        normalise: bool = True,
        on_step: OnStep | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[Audio]:
        """The pieces of a long `generate`, each as soon as it is final; joined they equal it."""
        how = self._sampling(plan, cfg_scale, rescale, normalise, on_step, cancel)
        if not isinstance(request, Request) or isinstance(request, Edit):
            raise RequestError(f"generate_segments takes a generation request, got {request!r:.80}")
        seed = checked_seed(seed)
        pieces = self._pieces(request, how, seed, duration_s, negative_prompt)
        return (self._audio([piece], request, how, seed) for piece in pieces)

    def edit(
        self,
        task: str,
        source: Clip,
        *,
        desc: str | None = None,
        source_category: str | None = None,
        target_category: str | None = None,
        negative_prompt: str | None = None,
        plan: str | Plan | None = None,
        cfg_scale: float = 7.0,
        rescale: float = 0.0,
        seed: int | None = None,
        normalise: bool = True,
        on_step: OnStep | None = None,
        cancel: threading.Event | None = None,
    ) -> Audio:
        """A recording edited: "Add", "Remove" or "Extract" `desc`, or "Style Transfer".

        The result has the source's duration. Sources longer than the model's window (10 s) are
        edited in windows that overlap by 1 s. Other arguments and errors are those of `generate`.
        """
        given = {
            "source": source,
            "desc": desc,
            "source_category": source_category,
            "target_category": target_category,
        }
        request = _with_clip_read(make_request(task, given, among=EDITING))
        assert isinstance(request, Edit)
        assert isinstance(request.source, Audio)
        how = self._sampling(plan, cfg_scale, rescale, normalise, on_step, cancel)
        seed = checked_seed(seed)
        self._check(request, how, negative_prompt)
        conditioning = self._pipeline.encode(request, negative_prompt, cancel)
        samples = edited(self._pipeline, request.source, conditioning, how, seed=seed)
        return self._audio([samples], request, how, seed)

    def generate_batch(
        self,
        requests: Sequence[Request],
        *,
        seeds: Sequence[int] | None = None,
        negative_prompts: Sequence[str] | None = None,
        duration_s: float | None = None,
        plan: str | Plan | None = None,
        cfg_scale: float = 7.0,
        rescale: float = 0.0,
        normalise: bool = True,
        on_step: OnStep | None = None,
        cancel: threading.Event | None = None,
    ) -> list[Audio]:
        """Several requests (of any tasks, prompts of any lengths) through the loop at once.

        Each is one window at most. Raises as `generate` does; then no request has a result.
        """
        check_batch(len(requests))
        drawn = [checked_seed(s) for s in ([None] * len(requests) if seeds is None else seeds)]
        negatives = [None] * len(requests) if negative_prompts is None else list(negative_prompts)
        if not len(drawn) == len(negatives) == len(requests):
            raise RequestError("seeds and negative_prompts must be as many as the requests")
        how = self._sampling(plan, cfg_scale, rescale, normalise, on_step, cancel)
        read = [_with_clip_read(request) for request in requests]
        if None in negatives and any(n is not None for n in negatives):
            raise RequestError("a batch has negative prompts for all its requests, or for none")
        for request, negative in zip(read, negatives, strict=True):
            self._check(request, how, negative)
        totals = [self._window_samples(request, duration_s) for request in read]
        conditionings = [
            self._pipeline.encode(r, n, cancel) for r, n in zip(read, negatives, strict=True)
        ]
        clips = self._pipeline.clips(conditionings, drawn, how, on_step)
        return [
            self._audio([finished(request, clip, self._pipeline.dims, total)], request, how, seed)
            for request, clip, total, seed in zip(read, clips, totals, drawn, strict=True)
        ]

    def encode(self, request: Request, *, negative_prompt: str | None = None) -> Conditioning:
        """The model's inputs for a request: the first of the three phases."""
        return self._pipeline.encode(_with_clip_read(request), negative_prompt)

    def sample(
        self,
        conditioning: Conditioning | Sequence[Conditioning],
        *,
        noise: ArrayLike | None = None,
        seed: int | Sequence[int] | None = None,
        plan: str | Plan | None = None,
        cfg_scale: float = 7.0,
        rescale: float = 0.0,
        on_step: OnStep | None = None,
        cancel: threading.Event | None = None,
    ) -> Floats:
        """Latents [B, C, L] float32: the second phase. `noise` [B, C, L] replaces the seed's."""
        items = [conditioning] if isinstance(conditioning, Conditioning) else conditioning
        if not isinstance(items, (list, tuple)) or not all(
            isinstance(item, Conditioning) for item in items
        ):
            raise RequestError("sample takes a Conditioning or a list of them")
        if seed is None or np.ndim(seed) == 0:
            first = checked_seed(seed)  # type: ignore[arg-type]  # checked there
            seeds = [nth_seed(first, i) for i in range(len(items))]
        else:
            seeds = [checked_seed(s) for s in seed]  # type: ignore[union-attr]
        how = Sampling(plan=self.plan(plan), cfg_scale=cfg_scale, rescale=rescale, cancel=cancel)
        return self._pipeline.latents(items, seeds, how, on_step=on_step, noise=noise)

    def decode(self, latents: ArrayLike) -> Floats:
        """Waveform [B, 2, samples] float32 of latents [B, C, L], not normalised: the last phase."""
        return self._pipeline.decode(latents)

    def warmup(self) -> None:
        """Load every engine now, so that the first request is as fast as the next."""
        self._pipeline.load_all()

    def close(self) -> None:
        """Let go of the engines. Requests after this raise EngineError."""
        self._pipeline.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def plan(self, plan: str | Plan | None = None) -> Plan:
        """A plan by name (the bundle's own first), the bundle's default for None.

        Raises RequestError for a name that is neither a plan of the bundle nor `method-steps`.
        """
        if isinstance(plan, Plan):
            return plan
        name = self.bundle.manifest.default_plan if plan is None else plan
        if not isinstance(name, str):
            raise RequestError(f"plan must be a name or a Plan, got {type(name).__name__}")
        return self.bundle.plan(name) or make_plan(name)

    def _sampling(
        self,
        plan: str | Plan | None,
        cfg_scale: float,
        rescale: float,
        normalise: bool,
        on_step: OnStep | None,
        cancel: threading.Event | None,
    ) -> Sampling:
        return Sampling(
            plan=self.plan(plan),
            cfg_scale=cfg_scale,
            rescale=rescale,
            normalise=normalise,
            on_step=on_step,
            cancel=cancel,
        )

    def _pieces(
        self,
        request: Request,
        how: Sampling,
        seed: int,
        duration_s: float | None,
        negative_prompt: str | None,
    ) -> Iterator[Samples]:
        """The pieces of a generation; everything is checked and encoded before this returns."""
        dims = self._pipeline.dims
        self._check(request, how, negative_prompt)
        total = self._total(duration_s, long=request.long)
        if how.initial is not None and total > dims.clip_samples:
            raise RequestError("init_audio varies one window: duration_s is too long for it")
        request = _with_clip_read(request)
        conditioning = self._pipeline.encode(request, negative_prompt, how.cancel)
        return generated(self._pipeline, request, conditioning, how, seed=seed, total=total)

    def _check(self, request: Request, how: Sampling, negative_prompt: str | None) -> None:
        """Raise before anything runs if the bundle or the options cannot serve the request."""
        speech = not isinstance(request, Edit) and request.spoken() is not None
        self._pipeline.require(*(["transcript"] if speech else []))
        if negative_prompt is not None and not how.guided:
            raise RequestError("a negative prompt needs guidance: cfg_scale is 1")
        if speech and request.clip() is not None:
            window_s = self._pipeline.dims.clip_samples / self.sample_rate_hz
            if window_s <= VOICE_S:
                raise RequestError(
                    f"this model makes {window_s:.2f} s: no room beside a voice prompt"
                )

    def _total(self, duration_s: float | None, *, long: bool) -> int:
        dims = self._pipeline.dims
        if duration_s is None:
            return min(round(DEFAULT_DURATION_S * dims.sample_rate_hz), dims.clip_samples)
        return requested_samples(dims, checked_duration(duration_s), long=long)

    def _window_samples(self, request: Request, duration_s: float | None) -> int:
        """How many samples of one window a request of a batch keeps."""
        if not isinstance(request, Edit):
            return self._total(duration_s, long=False)
        assert isinstance(request.source, Audio)
        return requested_samples(self._pipeline.dims, request.source.duration_s, long=False)

    def _starting_from(self, clip: Clip, strength: float | None, how: Sampling) -> Sampling:
        """`how` from a clip's latents, its plan rebuilt to start at their σ."""
        self._pipeline.require("vae_encoder")
        remaining = checked_strength(strength)
        plan = how.plan.starting_at(1 - remaining)
        initial = self._pipeline.initial_latents(
            read_clip(clip, what="init_audio"), strength=remaining, cancel=how.cancel
        )
        return replace(how, plan=plan, initial=initial)

    def _audio(
        self, pieces: Iterable[Samples], request: Request, how: Sampling, seed: int
    ) -> Audio:
        made = {
            "task": request.task,
            **{f.name: _for_record(getattr(request, f.name)) for f in fields(request)},
            "plan": how.plan.name,
            "cfg_scale": how.cfg_scale,
            "rescale": how.rescale,
            "seed": seed,
            "bundle": self.bundle.id,
        }
        samples = np.concatenate(list(pieces), axis=1)
        return Audio(samples, self.sample_rate_hz, made)


def _with_clip_read(request: Request) -> Request:
    """The request with its recording decoded and checked, so that it is read once."""
    if not isinstance(request, Request):
        raise RequestError(f"a request is one of omni_rt's, such as TextToAudio, got {request!r}")
    given = request.clip()
    if given is None:
        return request
    name = "source" if isinstance(request, Edit) else "voice"
    changes: dict[str, Any] = {name: read_clip(given, what=name)}
    return replace(request, **changes)


def _for_record(value: Any) -> Any:
    return dict(value.made) if isinstance(value, Audio) else value
