"""Small calibration sets to test with."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from omni_rt.audio import Audio
from omni_rt.calibration.case import case_of
from omni_rt.calibration.inputs import CalibrationSet, Case, calibration_set
from omni_rt.contract import PORTS
from tests.export.miniature.fake_model import MINIATURE_DIMS
from tests.runtime.tiny_bundle import DIMS

OTHER_DIMS = replace(
    DIMS, sample_rate_hz=4000, window_samples=4000, clip_samples=4400, transcript_ids=64
)
ALL = tuple(PORTS)
BLIND = tuple(stage for stage in ALL if stage not in ("vision_tower", "synchformer"))
MODELS = pytest.mark.parametrize("dims", [MINIATURE_DIMS, OTHER_DIMS], ids=["miniature", "other"])


def blind(folder: Path, **options: Any) -> CalibrationSet:
    """A small set without videos, which are slow to write."""
    return calibration_set(OTHER_DIMS, BLIND, folder=folder, **{"per_task": 1, **options})


def recordings(case: Case) -> list[Audio]:
    request = case.request
    given = [] if request is None else [getattr(request, f.name) for f in fields(request)]
    return [clip for clip in (*given, case.audio) if isinstance(clip, Audio)]


def case_named(name: str) -> Case:
    """A case of this name that asks for next to nothing."""
    task = name.partition("/")[0]
    words = {"question": "what?"} if task == "understand" else {"prompt": "rain"}
    return case_of(name, dict(words), seed=0)
