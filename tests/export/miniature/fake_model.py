"""What answers like a session, and knows the examples that it will be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from omni_rt import Audio, Plan, make_plan
from omni_rt.export.miniature.data import (
    CLIP_SAMPLES,
    RATE_HZ,
    WINDOW_SAMPLES,
    Example,
    Wave,
    held_out,
)
from omni_rt.longform import finished
from omni_rt.options import OnStep
from omni_rt.tasks import Request
from tests.export.miniature.results import target
from tests.runtime.tiny_bundle import DIMS

MINIATURE_DIMS = replace(
    DIMS, sample_rate_hz=RATE_HZ, clip_samples=CLIP_SAMPLES, window_samples=WINDOW_SAMPLES
)

Maker = Callable[[Example], Wave]
Speaker = Callable[[Example], str]


def right_answer(example: Example) -> str:
    assert example.answer is not None
    return example.answer


def silence(_: Example) -> Wave:
    return np.zeros(CLIP_SAMPLES, np.float32)


def due(kinds: Iterable[str], count: int, *, seed: int = 5) -> list[Example]:
    """The examples of a run, in its order."""
    return [example for kind in kinds for example in islice(held_out(kind, seed=seed), count)]


@dataclass
class FakeModel:
    """Makes of each example what `maker` and `speaker` say, cut as a session cuts it."""

    examples: Sequence[Example]
    maker: Maker = target
    speaker: Speaker = right_answer
    dims: Any = MINIATURE_DIMS
    seeds: list[int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    plans: list[str | None] = field(default_factory=list)  # as they were asked for

    def __post_init__(self) -> None:
        self._due = iter(self.examples)

    def generate_batch(
        self,
        requests: Sequence[Request],
        *,
        seeds: Sequence[int],
        plan: Plan,
        cfg_scale: float,
        on_step: OnStep,
    ) -> list[Audio]:
        self.requests += requests
        self.seeds += seeds
        made = []
        for request in requests:
            example = next(self._due)
            assert request.task == example.task
            clip = np.tile(self.maker(example), (2, 1))
            made.append(Audio(finished(request, clip, self.dims, CLIP_SAMPLES), RATE_HZ))
        for step in range(2):
            on_step(step + 1, 2)
        return made

    def understand(
        self, question: str, *, audio: Audio | None, video: Path | None, max_new_tokens: int
    ) -> Any:
        example = next(self._due)
        assert question == example.question
        assert (audio is None) == (example.audio is None)
        assert (video is None) == (example.frames is None)
        self.questions.append(question)
        return SimpleNamespace(text=self.speaker(example))

    # what the commands need beside that

    @property
    def bundle(self) -> Any:
        manifest = SimpleNamespace(name="fake", dims=self.dims, graphs={}, certificate=None)
        return SimpleNamespace(id="fake", model_id="right", manifest=manifest, student_plans=())

    def guidance(self, cfg_scale: float | None) -> float:
        return 7.0 if cfg_scale is None else cfg_scale

    def plan(self, plan: str | None, *, cfg_scale: float) -> Plan:
        self.plans.append(plan)
        return make_plan(plan or "euler-2")

    def __enter__(self) -> FakeModel:
        return self

    def __exit__(self, *_: object) -> None:
        return None
