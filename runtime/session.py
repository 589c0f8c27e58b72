"""`Session`: what apps call. Request → encode → sample → decode → audio."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from omni_rt.answering import TokenChoice
from omni_rt.audio import Audio, Samples
from omni_rt.bundle import Bundle, Progress
from omni_rt.completion import for_record, with_clips_read, with_words
from omni_rt.encode import Conditioning, Floats
from omni_rt.engine_pool import EnginePool, Memory, check_machine
from omni_rt.engines.gpu import KEPT_SHAPES, CudaGraph, Gpu
from omni_rt.engines.registry import AUTO, LoadEngine, engine_loader, placed, resolved
from omni_rt.errors import BundleError, RequestError
from omni_rt.gpu_memory import gpu_estimate
from omni_rt.longform import (
    edited,
    finished,
    generated,
    requested_samples,
    segment_count,
    segment_hop,
)
from omni_rt.options import (
    MAX_DURATION_S,
    OnStep,
    Sampling,
    checked_duration,
    checked_seed,
    checked_strength,
    nth_seed,
)
from omni_rt.pipeline import Pipeline, check_batch
from omni_rt.plan_choice import PlanChoice
from omni_rt.plans import Plan
from omni_rt.preprocess.chat import check_text
from omni_rt.preprocess.waveform import read_clip
from omni_rt.speech_edit import edited_speech
from omni_rt.tasks import (
    EDITING,
    GENERATION,
    VOICE_S,
    Clip,
    Edit,
    Footage,
    Request,
    Speech,
    TextToSpeech,
    make_request,
)
from omni_rt.thinker import Item
from omni_rt.uncertified import warn_if_uncertified
from omni_rt.understanding import (
    LEAST_TRANSCRIPT_TOKENS,
    MAX_NEW_TOKENS,
    TRANSCRIBE,
    TRANSCRIPT_TOKENS_PER_S,
    Answering,
    OnText,
    Reply,
    Turn,
    checked_history,
)
from omni_rt.video import FrameRule, Window, probe, windows

DEFAULT_DURATION_S = 10.0
_WINDOWS_AT_ONCE = 6  # of a video: 17 MB of thinker states each, officially


class Session:
    """A bundle, ready for requests. Thread-safe: requests run one after another.

    memory: "resident" keeps every engine that was used; "staged" only those of one phase.
    engine: "onnxruntime" (which "auto" is), "openvino", one that another package offers, or a
    function that loads a stage's. Raises BundleError if the bundle is damaged, or its parity
    certificate is missing or fails (with `allow_uncertified` it is an UncertifiedWarning);
    EngineError if the engine's library is not installed.

    For engines that run on a GPU ("tensorrt_rtx", "tensorrt", "torch_cuda", "onnxruntime_cuda"):
    device: "cuda:1" is the second that is visible, "auto" and "cuda" the first. `gpu_estimate`
    (None for others) says what the session takes of its memory, before anything is loaded; raises
    EngineError if that is not free, or there is no such GPU. Of those with the CUDA loop,
    cuda_graph: "step" replays one captured step per row; "chain" captures plans of at most 16 rows
    whole, which tells no progress before its end and cannot be cancelled inside (longer plans run
    as "step"). cuda_shapes: of so many shapes of requests the graphs are kept. cuda_stream: the
    loop's stream, a cudaStream_t of yours as an integer, which outlives the session; 0: its own.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        memory: Memory = "resident",
        engine: str | LoadEngine = AUTO,
        cuda_graph: CudaGraph = "step",
        cuda_shapes: int = KEPT_SHAPES,
        cuda_stream: int = 0,
        allow_uncertified: bool = False,
        progress: Progress | None = None,
    ) -> None:
        check_machine(threads, memory)
        gpu = Gpu(graph=cuda_graph, kept=cuda_shapes, stream=cuda_stream)
        load = placed(engine_loader(engine), device, gpu)
        if not isinstance(bundle, (str, Path)):
            raise BundleError(f"a bundle is the path of a directory, got {bundle!r}")
        self.bundle = Bundle.open(bundle, progress=progress)
        if not allow_uncertified:
            self.bundle.require_certificate()
            if isinstance(engine, str):
                self.bundle.require_on_device(resolved(engine))
        else:
            warn_if_uncertified(self.bundle, engine)
        self.gpu_estimate = gpu_estimate(load, self.bundle, memory)
        pool = EnginePool(self.bundle, threads=threads, memory=memory, engine=load)
        self._pipeline = Pipeline(self.bundle, pool)
        self._plans = PlanChoice(self.bundle)

    @property
    def sample_rate_hz(self) -> int:
        return self.bundle.manifest.dims.sample_rate_hz

    def generate(
        self,
        task: str,
        *,
        prompt: str | None = None,
        video: str | Path | None = None,
        audio: Clip | None = None,
        voice: Clip | None = None,
        voice_transcript: str | None = None,
        transcript: str | None = None,
        source: Clip | None = None,
        frame_rule: FrameRule | None = None,
        small_frames: bool | None = None,
        allow_damaged: bool | None = None,
        negative_prompt: str | None = None,
        init_audio: Clip | None = None,
        init_strength: float | None = None,
        duration_s: float | None = None,
        plan: str | Plan | None = None,
        cfg_scale: float | None = None,
        rescale: float = 0.0,
        seed: int | None = None,
        normalise: bool = True,
        on_step: OnStep | None = None,
        cancel: threading.Event | None = None,
    ) -> Audio:
        """Sound for a task: "T2A", "T2M", "V2A", "V2M", "TTS" or "VC".

        What each takes is in `omni_rt.tasks`: prompt, video (a file, or a picture), audio (a
        recording to go by), voice, source. init_audio: a clip to vary; init_strength in (0, 1) says
        how much of it remains: sampling starts at σ = 1 − init_strength from clip·(1−σ) + noise·σ.
        duration_s: the video's, else 10, or one window if that is shorter; trimmed below one window
        (10.96 s officially), joined from segments above it (T2A, T2M, V2A, V2M). normalise: divide
        by the peak, as the original does. plan, cfg_scale: the bundle's own (of a variation
        euler-100, where the bundle's is fitted); a student's bundle refuses others.
        on_step(done, total) is called after every step; `cancel` stops within one. The
        same seed gives the same bits; None draws one (see `Audio.made`).

        Raises RequestError, Cancelled or EngineError; the session stays usable after each.
        """
        given = {
            "prompt": prompt,
            "video": video,
            "audio": audio,
            "voice": voice,
            "voice_transcript": voice_transcript,
            "transcript": transcript,
            "source": source,
            "frame_rule": frame_rule,
            "small_frames": small_frames,
            "allow_damaged": allow_damaged,
        }
        request = make_request(task, given, among=GENERATION)
        if init_audio is not None:
            plan = self._plans.of_variation(plan)
        how = self._sampling(plan, cfg_scale, rescale, normalise, on_step, cancel)
        request = self._complete(request, cancel)
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
        cfg_scale: float | None = None,
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
        request = self._complete(request, cancel)
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
        transcript: str | None = None,
        new_transcript: str | None = None,
        negative_prompt: str | None = None,
        plan: str | Plan | None = None,
        cfg_scale: float | None = None,
        rescale: float = 0.0,
        seed: int | None = None,
        normalise: bool = True,
        on_step: OnStep | None = None,
        cancel: threading.Event | None = None,
    ) -> Audio:
        """A recording edited: "Add", "Remove" or "Extract" `desc`, "Style Transfer", or "Speech".

        The result has the source's duration. Sources longer than the model's window (10 s) are
        edited in windows that overlap by 1 s. "Speech" makes a recording of `transcript` (listened
        for if not given) say `new_transcript`: it keeps the source's rate, channels and level, and
        outside of what `made["spans"]` lists its bits. Other arguments and errors are those of
        `generate`.
        """
        given = {
            "source": source,
            "desc": desc,
            "source_category": source_category,
            "target_category": target_category,
            "transcript": transcript,
            "new_transcript": new_transcript,
        }
        request = with_clips_read(make_request(task, given, among=EDITING))
        assert isinstance(request, Edit)
        assert isinstance(request.source, Audio)
        how = self._sampling(plan, cfg_scale, rescale, normalise, on_step, cancel)
        seed = checked_seed(seed)
        self._check(request, how, negative_prompt)
        if isinstance(request, Speech):
            return self._speech(request, how, seed, negative_prompt)
        (conditioning,) = self._pipeline.encode(request, negative_prompt, cancel)
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
        cfg_scale: float | None = None,
        rescale: float = 0.0,
        normalise: bool = True,
        on_step: OnStep | None = None,
        cancel: threading.Event | None = None,
    ) -> list[Audio]:
        """Several requests (of any tasks, prompts of any lengths) through the loop at once.

        Each is one window at most. Raises as `generate` does; then no request has a result.
        """
        if not isinstance(requests, (list, tuple)):
            raise RequestError(f"a batch is a list of requests, got {type(requests).__name__}")
        check_batch(len(requests))
        drawn = [checked_seed(s) for s in ([None] * len(requests) if seeds is None else seeds)]
        negatives = [None] * len(requests) if negative_prompts is None else list(negative_prompts)
        if not len(drawn) == len(negatives) == len(requests):
            raise RequestError("seeds and negative_prompts must be as many as the requests")
        how = self._sampling(plan, cfg_scale, rescale, normalise, on_step, cancel)
        read = [self._complete(request, cancel) for request in requests]
        if None in negatives and any(n is not None for n in negatives):
            raise RequestError("a batch has negative prompts for all its requests, or for none")
        for request, negative in zip(read, negatives, strict=True):
            if isinstance(request, Speech):
                raise RequestError("Speech is edited by `edit`, one recording at a time")
            self._check(request, how, negative)
        totals = [self._window_samples(request, duration_s) for request in read]
        conditionings = [
            self._pipeline.encode(r, n, cancel, windows=self._windows(r, 1))[0]
            for r, n in zip(read, negatives, strict=True)
        ]
        clips = self._pipeline.clips(conditionings, drawn, how, on_step)
        return [
            self._audio([finished(request, clip, self._pipeline.dims, total)], request, how, seed)
            for request, clip, total, seed in zip(read, clips, totals, drawn, strict=True)
        ]

    def understand(
        self,
        question: str,
        *,
        audio: Clip | None = None,
        video: str | Path | None = None,
        history: Sequence[Turn] | Sequence[tuple[str, str]] | None = None,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stream: OnText | None = None,
        cancel: threading.Event | None = None,
        video_sound: bool = True,
        frame_rule: FrameRule = "time_correct",
        small_frames: bool = False,
        allow_damaged: bool = False,
    ) -> Reply:
        """A question about sound, video or both, answered in text.

        audio: at most 5 minutes are heard. video: a file or a picture; its own sound is heard with
        it unless `video_sound` is False or it has none. history: the last reply's, to go on with
        that conversation; what was computed for it is not computed again. temperature 0 takes the
        likeliest token, so the answer is the same every time; above it `seed` (drawn if None),
        top_k and top_p say how tokens are drawn. stream(text) is called with each piece of the
        answer. The other arguments are those of V2A.

        Raises RequestError, Cancelled or EngineError; the session stays usable after each.
        """
        how = Answering(
            max_new_tokens=max_new_tokens,
            choice=TokenChoice(temperature=temperature, top_k=top_k, top_p=top_p),
            seed=checked_seed(seed),
            stream=stream,
            cancel=cancel,
        )
        check_text(question, what="question")
        turns = checked_history(history)
        footage = Footage(
            path=video or "", rule=frame_rule, small=small_frames, allow_damaged=allow_damaged
        )
        self._pipeline.require_answers(hears=audio is not None, sees=video is not None)
        media: list[Item] = []
        if video is not None:
            media.append(self._pipeline.watched(footage, with_sound=video_sound, cancel=cancel))
        if audio is not None:
            media.append(self._pipeline.heard(read_clip(audio, what="audio"), cancel))
        return self._pipeline.answer(turns, question, media, how)

    def transcribe(self, speech: Clip, *, cancel: threading.Event | None = None) -> str:
        """The words spoken in a recording, as the thinker hears them.

        Raises RequestError if it hears none, or does not come to an end.
        """
        clip = read_clip(speech, what="the recording")
        most = round(TRANSCRIPT_TOKENS_PER_S * clip.duration_s)
        reply = self.understand(
            TRANSCRIBE,
            audio=clip,
            max_new_tokens=min(max(most, LEAST_TRANSCRIPT_TOKENS), MAX_NEW_TOKENS),
            cancel=cancel,
        )
        words = " ".join(reply.text.split())
        if not any(character.isalnum() for character in words):
            raise RequestError("no words were heard in the recording: give its transcript")
        if not reply.complete:
            raise RequestError(
                f"what was heard in the recording has no end after {reply.tokens} tokens: "
                "give its transcript"
            )
        return words

    def encode(self, request: Request, *, negative_prompt: str | None = None) -> Conditioning:
        """The model's inputs for a request: the first of the three phases.

        Of a video these are the inputs for its first window (10 s).
        """
        if isinstance(request, Speech):
            raise RequestError("Speech is edited by `edit`: its inputs depend on the words' times")
        request = self._complete(request, None)
        return self._pipeline.encode(request, negative_prompt, windows=self._windows(request, 1))[0]

    def sample(
        self,
        conditioning: Conditioning | Sequence[Conditioning],
        *,
        noise: ArrayLike | None = None,
        seed: int | Sequence[int] | None = None,
        plan: str | Plan | None = None,
        cfg_scale: float | None = None,
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
        how = self._sampling(plan, cfg_scale, rescale, cancel=cancel)
        return self._pipeline.latents(items, seeds, how, on_step=on_step, noise=noise)

    def decode(self, latents: ArrayLike) -> Floats:
        """Waveform [B, 2, samples] float32 of latents [B, C, L], not normalised: the last phase."""
        return self._pipeline.decode(latents)

    def warmup(self) -> None:
        """Load every engine now, so that the first request is as fast as the next."""
        self._pipeline.load_all()

    def close(self) -> None:
        """Let go of the engines once the phase that runs is done.

        A request in progress raises EngineError at its next phase, and so do requests after this.
        """
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

    def guidance(self, cfg_scale: float | None = None) -> float:
        """The guidance scale of a request: what is given, else the bundle's own."""
        return self._plans.guidance(cfg_scale)

    def plan(self, plan: str | Plan | None = None, *, cfg_scale: float | None = None) -> Plan:
        """A plan by its or a preset's name, the bundle's default for None.

        Of one that is fitted to several guidance scales, the rows for the nearest. Raises
        RequestError for a name that is neither a preset that the bundle offers, nor a plan of its
        own, nor `method-steps`, and for a plan that does not hold for this model; BundleError if
        that is the bundle's own.
        """
        return self._plans.plan(plan, cfg_scale=self._plans.guidance(cfg_scale))

    def _sampling(
        self,
        plan: str | Plan | None,
        cfg_scale: float | None,
        rescale: float,
        normalise: bool = True,
        on_step: OnStep | None = None,
        cancel: threading.Event | None = None,
    ) -> Sampling:
        guidance = self._plans.guidance(cfg_scale)
        return Sampling(
            plan=self._plans.plan(plan, cfg_scale=guidance),
            cfg_scale=guidance,
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
        """The pieces of a generation; all is checked, and encoded for the first, before it returns.

        What is wrong with a later minute of a video is said when that minute is reached.
        """
        dims = self._pipeline.dims
        self._check(request, how, negative_prompt)
        total = self._total(duration_s, request)
        if how.initial is not None and total > dims.clip_samples:
            raise RequestError("init_audio varies one window: duration_s is too long for it")
        count = segment_count(total, segment=dims.clip_samples, hop=segment_hop(dims))
        conditionings = self._conditionings(request, count, how, negative_prompt)
        conditionings = chain([next(conditionings)], conditionings)
        return generated(self._pipeline, request, conditionings, how, seed=seed, total=total)

    def _conditionings(
        self, request: Request, count: int, how: Sampling, negative_prompt: str | None
    ) -> Iterator[Conditioning]:
        """One for all segments, or for a video one each, made for a minute of it at a time."""
        if request.footage() is None:
            yield from self._pipeline.encode(request, negative_prompt, how.cancel)
        windows = self._windows(request, count, how.cancel)
        while group := list(islice(windows, _WINDOWS_AT_ONCE)):
            yield from self._pipeline.encode(request, negative_prompt, how.cancel, windows=group)

    def _check(self, request: Request, how: Sampling, negative_prompt: str | None) -> None:
        """Raise before anything runs if the bundle or the options cannot serve the request."""
        speech = not isinstance(request, Edit) and request.spoken() is not None
        needed = ["transcript"] if speech or isinstance(request, Speech) else []
        needed += ["vision_tower", "synchformer"] if request.footage() is not None else []
        needed += ["audio_tower"] if request.example() is not None else []
        self._pipeline.require(*needed)
        if negative_prompt is not None and not how.guided:
            raise RequestError("a negative prompt needs guidance: cfg_scale is 1")
        voice = request.clip() if speech else None
        if isinstance(voice, Audio):
            window_s = self._pipeline.dims.clip_samples / self.sample_rate_hz
            if window_s <= min(voice.duration_s, VOICE_S):
                raise RequestError(
                    f"this model makes {window_s:.2f} s: no room beside that voice prompt"
                )

    def _total(self, duration_s: float | None, request: Request, *, long: bool = True) -> int:
        """How many samples to make: as asked for, as the video lasts, or ten seconds."""
        dims, footage = self._pipeline.dims, request.footage()
        if duration_s is None and footage is not None:
            info = probe(footage.path)
            most_s = MAX_DURATION_S if long else dims.clip_samples / dims.sample_rate_hz
            duration_s = None if info.is_image else min(info.duration_s, most_s)
        if duration_s is None:
            return min(round(DEFAULT_DURATION_S * dims.sample_rate_hz), dims.clip_samples)
        return requested_samples(dims, checked_duration(duration_s), long=long and request.long)

    def _window_samples(self, request: Request, duration_s: float | None) -> int:
        """How many samples of one window a request of a batch keeps."""
        if not isinstance(request, Edit):
            return self._total(duration_s, request, long=False)
        assert isinstance(request.source, Audio)
        return requested_samples(self._pipeline.dims, request.source.duration_s, long=False)

    def _complete(self, request: Request, cancel: threading.Event | None) -> Request:
        """The request with its recordings read, and the words in them heard if not given."""
        return with_words(with_clips_read(request), partial(self.transcribe, cancel=cancel))

    def _speech(
        self, request: Speech, how: Sampling, seed: int, negative_prompt: str | None
    ) -> Audio:
        """A speech edit, at the source's rate."""
        completed = self._complete(request, how.cancel)
        assert isinstance(completed, Speech)
        source, transcript = completed.source, completed.transcript
        assert isinstance(source, Audio)
        assert transcript is not None

        def condition(text: str) -> Conditioning:
            spoken = TextToSpeech(prompt=text)
            return self._pipeline.encode(spoken, negative_prompt, how.cancel)[0]

        found = edited_speech(
            self._pipeline,
            condition,
            source,
            transcript=transcript,
            new_transcript=completed.new_transcript,
            how=how,
            seed=seed,
        )
        made = {**self._made(completed, how, seed), "spans": list(found.spans)}
        return Audio(found.samples, source.sample_rate_hz, made, recorded=True)

    def _windows(
        self, request: Request, count: int, cancel: threading.Event | None = None
    ) -> Iterator[Window]:
        """The windows of a request's video, decoded as they are asked for."""
        dims, footage = self._pipeline.dims, request.footage()
        if footage is None:
            return iter(())
        return windows(
            footage.path,
            rule=footage.rule,
            window_s=max(round(segment_hop(dims) / dims.sample_rate_hz), 1),
            count=count,
            allow_damaged=footage.allow_damaged,
            cancel=cancel,
        )

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
        samples = np.concatenate(list(pieces), axis=1)
        return Audio(samples, self.sample_rate_hz, self._made(request, how, seed))

    def _made(self, request: Request, how: Sampling, seed: int) -> dict[str, Any]:
        """How a sound is made: for its `made`."""
        return {
            "task": request.task,
            **{f.name: for_record(getattr(request, f.name)) for f in fields(request)},
            "plan": how.plan.name,
            "cfg_scale": how.cfg_scale,
            "rescale": how.rescale,
            "seed": seed,
            "bundle": self.bundle.id,
        }
