"""One thing to ask of a model while it is observed, made from its name and its arguments.

Recordings lie on the 16-bit grid, where the last bits of a processor's sines are gone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from omni_rt.audio import Audio, on_grid
from omni_rt.calibration.mixing import Stream
from omni_rt.tasks import EDITING, GENERATION, Request, make_request

UNDERSTAND = "understand"

Given: TypeAlias = dict[str, Any]  # arguments by name
Told: TypeAlias = tuple[str, Given]  # a case's name and arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to ask of a model: a request for sound, or a question."""

    name: str  # "T2A/0", "understand/3"
    task: str  # of omni_rt.tasks, or "understand"
    request: Request | None  # None for a question
    question: str | None
    audio: Audio | None  # what the question is about, or nothing
    video: Path | None
    seed: int  # of the noise


def case_of(name: str, given: Given, *, seed: int) -> Case:
    """The case of this name. Its recordings are put on the 16-bit grid."""
    task = name.rpartition("/")[0]
    for what, clip in given.items():
        if isinstance(clip, Audio):
            given[what] = Audio(on_grid(clip.samples, 16), clip.sample_rate_hz)
    asked = task == UNDERSTAND
    return Case(
        name=name,
        task=task,
        request=None if asked else make_request(task, given, among=GENERATION + EDITING),
        question=given["question"] if asked else None,
        audio=given.get("audio") if asked else None,
        video=given.get("video") if asked else None,
        seed=int(stream_of(seed, name, "noise").randint(2**32, dtype=np.uint32)),
    )


def stream_of(*parts: object) -> Stream:
    """Random numbers that depend on these alone; of eight words, so nobody else's of two."""
    digest = hashlib.sha256(json.dumps(["calibration", *parts]).encode()).digest()
    return Stream(np.frombuffer(digest, "<u4"))
