"""The calibration set: what is in it, what is left out, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from omni_rt.audio import grid_bits
from omni_rt.calibration import inputs
from omni_rt.calibration.digest import digest_of
from omni_rt.calibration.inputs import (
    calibration_set,
    check_coverage,
    drawn_requests,
    restricted,
    spread,
)
from omni_rt.errors import ExportError
from omni_rt.preprocess.chat import check_text
from omni_rt.preprocess.transcript import tokenize
from omni_rt.tasks import EDITING, GENERATION, Speech
from tests.calibration.sets import ALL, BLIND, MODELS, OTHER_DIMS, blind, case_named, recordings
from tests.runtime.tiny_bundle import PROMPTS

SOUND_TASKS = {kind.task for kind in GENERATION + EDITING} - {Speech.task}


@MODELS
def test_every_task_is_in_a_set(dims: Any, tmp_path: Path) -> None:
    pytest.importorskip("av")
    made = calibration_set(dims, ALL, per_task=1, folder=tmp_path)
    assert set(made.tasks) == SOUND_TASKS | {"understand"}
    assert set(made.left_out) == {"Speech"}
    asked = [case for case in made.cases if case.task == "understand"]
    media = {(case.audio is not None, case.video is not None) for case in asked}
    assert media == {(True, False), (False, True), (False, False)}
    assert len({case.name for case in made.cases}) == len(made.cases)
    assert len({case.seed for case in made.cases}) == len(made.cases)
    for case in made.cases:
        assert case.name.startswith(case.task + "/")
        assert (case.request is None) == (case.question is not None) == (case.task == "understand")
        assert case.request is None or case.request.task == case.task


@MODELS
def test_what_a_case_asks_for_can_be_asked(dims: Any, tmp_path: Path) -> None:
    for case in calibration_set(dims, BLIND, folder=tmp_path).cases:
        if case.request is None:
            check_text(case.question, what="question")
        else:
            case.request.user_text(PROMPTS)
            spoken = case.request.spoken()
            assert spoken is None or len(tokenize(spoken)) <= 64  # transcript_ids of both
        for clip in recordings(case):
            assert clip.sample_rate_hz == dims.sample_rate_hz
            assert 0 < clip.samples.shape[1] <= dims.clip_samples
            assert 0 < np.abs(clip.samples).max() <= 1
            assert grid_bits(clip.samples) == 16


@MODELS
def test_what_a_bundle_cannot_do_is_left_out_with_its_reason(dims: Any, tmp_path: Path) -> None:
    stages = ("thinker_embed", "thinker_cond", "thinker_lm", "dit_step", "vision_tower")
    made = calibration_set(dims, stages[:-1], per_task=1, folder=tmp_path)
    assert set(made.tasks) == SOUND_TASKS - {"V2A", "V2M", "TTS", "VC"} | {"understand"}
    assert made.left_out["V2A"] == "the bundle has no vision_tower, synchformer"
    assert made.left_out["VC"] == "the bundle has no transcript"
    assert made.left_out["understand/audio"] == "the bundle has no audio_tower"
    assert "understand/text" not in made.left_out
    mute = calibration_set(dims, ("dit_step",), per_task=4, folder=tmp_path)
    assert "understand" not in mute.tasks
    assert not any(getattr(c.request, "audio", None) for c in mute.cases)  # no tower hears it


@MODELS
def test_without_the_video_library_its_tasks_are_left_out(
    dims: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "what_video_needs", lambda: "install the extra")
    made = calibration_set(dims, ALL, per_task=1, folder=tmp_path)
    for task in ("V2A", "V2M", "understand/video"):
        assert made.left_out[task] == "install the extra"
    assert set(made.tasks) == SOUND_TASKS - {"V2A", "V2M"} | {"understand"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_task": 0}, "per_task must be at least 1"),
        ({"per_task": True}, "per_task must be at least 1"),
        ({"per_task": 10**10}, "per_task must be at most 256"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_sizes_that_make_no_set_are_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        blind(tmp_path, **options)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write videos into"):
        blind(tmp_path / "file")


def test_a_set_of_one_task_or_none_covers_nothing(tmp_path: Path) -> None:
    made = blind(tmp_path)
    check_coverage(made.cases)
    alone = restricted(made, "Remove")
    assert alone.tasks == ("Remove",)
    assert alone.digest == digest_of(alone.cases) != made.digest
    with pytest.raises(ExportError, match=r"one task only \(Remove\)"):
        check_coverage(alone.cases)
    with pytest.raises(ExportError, match="set is empty"):
        check_coverage(())
    with pytest.raises(ExportError, match="no case of 'V2A'; it has T2A, T2M"):
        restricted(made, "V2A")


def test_no_torch_is_needed() -> None:
    code = "import sys, omni_rt.calibration.inputs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["examples", "sounds"])
def test_the_miniature_takes_every_case(own: bool, sounds: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    import omni_rt

    with omni_rt.Session(omni_rt.miniature(), threads=1, allow_uncertified=True) as session:
        manifest, audio = session.bundle.manifest, sounds if own else None
        made = calibration_set(
            manifest.dims, manifest.graphs, per_task=1, audio=audio, folder=tmp_path
        )
        for case in made.cases:
            if case.request is not None:
                session.encode(case.request)
            else:
                assert case.question is not None
                session.understand(
                    case.question, audio=case.audio, video=case.video, max_new_tokens=1
                )


def test_every_task_comes_once_before_any_comes_twice() -> None:
    names = ("T2A/0", "T2A/1", "T2A/2", "understand/0", "T2M/0", "TTS/0", "TTS/1")
    found = spread([case_named(name) for name in names], 5)
    assert [one.name for one in found] == ["T2A/0", "T2M/0", "TTS/0", "T2A/1", "TTS/1"]


def test_requests_are_as_many_as_asked_for_with_a_digest_of_their_own(tmp_path: Path) -> None:
    bundle: Any = SimpleNamespace(manifest=SimpleNamespace(dims=OTHER_DIMS, graphs=BLIND))
    few, more = (
        drawn_requests(bundle, count, seed=1, audio=None, folder=tmp_path) for count in (5, 7)
    )
    assert (len(few.cases), len(more.cases)) == (5, 7)
    assert (few.digest, more.digest) == (digest_of(few.cases), digest_of(more.cases))
    assert "understand" not in more.tasks
    assert "V2A" in few.left_out
