"""Held-out examples through a session, and what the scores make of its results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from omni_rt.audio import Audio
from omni_rt.errors import BundleError, EngineError, RequestError
from omni_rt.export.miniature.data import (
    CLIP_SAMPLES,
    KINDS,
    QUESTION_KINDS,
    RATE_HZ,
    Example,
    held_out,
)
from omni_rt.export.miniature.film import what_video_needs, write_film
from omni_rt.export.miniature.report import KindScores, not_scored, summarised
from omni_rt.export.miniature.requests import arguments_of, request_of
from omni_rt.export.miniature.tasks import Score, score, score_answer
from omni_rt.manifest import Dims
from omni_rt.options import OnStep, checked_seed, nth_seed
from omni_rt.plans import Plan
from omni_rt.tasks import Request

_MOST_EXAMPLES = 10_000  # of a kind: a share is then known to a point; more only takes longer
BATCH = 8  # sounds through the loop at once: faster than one by one, and the same bits
_MOST_ANSWER_TOKENS = 64  # the longest right answer has a dozen; a broken model never ends


class Answer(Protocol):
    """What `understand` returns, as far as it is read."""

    @property
    def text(self) -> str: ...


class Model(Protocol):
    """What can be scored: `omni_rt.Session`."""

    def generate_batch(
        self,
        requests: Sequence[Request],
        *,
        seeds: Sequence[int],
        plan: Plan,
        cfg_scale: float,
        on_step: OnStep,
    ) -> list[Audio]: ...

    def understand(
        self, question: str, *, audio: Audio | None, video: Path | None, max_new_tokens: int
    ) -> Answer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How examples are drawn and sounds sampled. Noise of example i of a kind is of noise + i."""

    plan: Plan
    cfg_scale: float
    count: int  # examples of each kind
    seed: int
    noise: int | None = None  # None: the seed

    def __post_init__(self) -> None:
        checked_seed(self.seed)
        checked_seed(self.first_noise)
        check_count(self.count)

    @property
    def first_noise(self) -> int:
        """The seed of the first example's noise."""
        return self.seed if self.noise is None else self.noise


def check_count(count: int) -> None:
    """Raise RequestError for a number of examples that tells nothing, or takes forever."""
    if not 1 <= count <= _MOST_EXAMPLES:
        raise RequestError(f"count must be 1 to {_MOST_EXAMPLES}, got {count}")


def check_model(dims: Dims) -> None:
    """Raise RequestError for a model of other sounds than the examples'."""
    if (dims.sample_rate_hz, dims.clip_samples) != (RATE_HZ, CLIP_SAMPLES):
        raise RequestError(
            f"scores need a model of the miniature's tasks: {RATE_HZ} Hz, {CLIP_SAMPLES} samples; "
            f"this bundle has {dims.sample_rate_hz} Hz, {dims.clip_samples} samples"
        )


def chosen_kinds(kinds: str | None) -> tuple[str, ...]:
    """The kinds of a comma-separated list, each once; all for None. Raises RequestError."""
    if kinds is None:
        return KINDS
    names = tuple(dict.fromkeys(name.strip() for name in kinds.split(",") if name.strip()))
    unknown = [name for name in names if name not in KINDS]
    if unknown or not names:
        raise RequestError(
            f"unknown kinds {', '.join(unknown) or repr(kinds)}: choose from {', '.join(KINDS)}"
        )
    return names


def score_kind(model: Model, kind: str, settings: Settings, on_step: OnStep) -> KindScores:
    """`settings.count` examples of a kind, the same ones for every model.

    on_step(done, total) is told about progress. Without what the kind needs, or if the model
    breaks down, the result says so and why; RequestError is raised for an unknown kind only.
    """
    if next(held_out(kind, seed=settings.seed)).frames is not None:
        needed = what_video_needs()
        if needed is not None:
            return not_scored(kind, "lacking", needed)
    begun = time.perf_counter()
    run = _answers if kind in QUESTION_KINDS else _sounds
    try:
        with TemporaryDirectory() as folder:
            scores = run(model, kind, settings, Path(folder), on_step)
    except BundleError as error:
        return not_scored(kind, "lacking", str(error), seconds=time.perf_counter() - begun)
    except (EngineError, RequestError) as error:
        return not_scored(kind, "failed", str(error), seconds=time.perf_counter() - begun)
    return summarised(kind, scores, seconds=time.perf_counter() - begun)


def _sounds(
    model: Model, kind: str, settings: Settings, folder: Path, on_step: OnStep
) -> list[Score]:
    examples = held_out(kind, seed=settings.seed)
    scores: list[Score] = []
    while batch := list(islice(examples, min(BATCH, settings.count - len(scores)))):
        first = len(scores)
        made = model.generate_batch(
            [request_of(e, _film(e, folder, first + i)) for i, e in enumerate(batch)],
            seeds=[nth_seed(settings.first_noise, first + i) for i in range(len(batch))],
            plan=settings.plan,
            cfg_scale=settings.cfg_scale,
            on_step=_within(on_step, first, len(batch), settings.count),
        )
        pairs = zip(batch, made, strict=True)
        scores += [score(example, a.samples, a.sample_rate_hz) for example, a in pairs]
    return scores


def _film(example: Example, folder: Path, number: int) -> Path:
    """Where an example's frames are, written if it has any."""
    path = folder / f"{number}.mkv"
    return path if example.frames is None else write_film(example.frames, path)


def _within(on_step: OnStep, before: int, now: int, count: int) -> OnStep:
    """Steps of a batch → examples done, of all."""
    return lambda done, steps: on_step(before + now * done // steps, count)


def _answers(
    model: Model, kind: str, settings: Settings, folder: Path, on_step: OnStep
) -> list[Score]:
    scores: list[Score] = []
    for example in islice(held_out(kind, seed=settings.seed), settings.count):
        given = arguments_of(example, _film(example, folder, len(scores)))
        answer = model.understand(
            given["question"],
            audio=given.get("audio"),
            video=given.get("video"),
            max_new_tokens=_MOST_ANSWER_TOKENS,
        )
        scores.append(score_answer(example, answer.text))
        on_step(len(scores), settings.count)
    return scores
