from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import MISSING, fields

import numpy as np
import pytest

from omni_rt.errors import RequestError
from omni_rt.export.miniature.data import (
    AUDIO_KINDS,
    AUDIO_WEIGHTS,
    CLIP_SAMPLES,
    KINDS,
    QUESTION_KINDS,
    QUESTION_WEIGHTS,
    WINDOW_SAMPLES,
    Example,
    draw,
    draw_any,
)
from omni_rt.export.miniature.data.clip import STEP_S, STEP_SAMPLES
from omni_rt.export.miniature.data.sounds import Clicks
from omni_rt.export.miniature.data.speech import DEFAULT_VOICE, Speech
from omni_rt.tasks import EDITING, GENERATION
from tests.export.miniature.results import examples, stream, target

_REQUESTS = {request.task: request for request in (*GENERATION, *EDITING)}


def _bytes(example: Example) -> list[object]:
    values = [getattr(example, field.name) for field in fields(Example) if field.name != "truth"]
    return [value.tobytes() if isinstance(value, np.ndarray) else value for value in values]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same_bytes(kind: str) -> None:
    first, again, other = (draw(kind, stream(seed)) for seed in (5, 5, 6))
    assert _bytes(first) == _bytes(again)
    assert _bytes(first) != _bytes(other)


def test_an_example_does_not_depend_on_what_was_drawn_before() -> None:
    drawn = stream(9)
    for kind in KINDS:
        draw(kind, drawn)
    assert _bytes(draw("speech", stream(5))) == _bytes(draw("speech", stream(5)))


@pytest.mark.parametrize("kind", AUDIO_KINDS)
def test_targets_are_audible_clips_that_end_within_two_seconds(kind: str) -> None:
    for example in examples(kind, 40):
        wave = target(example)
        assert wave.shape == (CLIP_SAMPLES,)
        assert wave.dtype == np.float32
        assert 0.02 < np.abs(wave).max() <= 0.91
        assert not wave[WINDOW_SAMPLES:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_examples_are_requests_of_the_runtime(kind: str) -> None:
    example = draw(kind, stream(1))
    given = set(example.arguments())
    if example.task == "understand":
        assert given in ({"question", "audio"}, {"question", "frames"})
        assert example.answer
        return
    given = {"video" if name == "frames" else name for name in given}
    known = fields(_REQUESTS[example.task])
    assert given <= {field.name for field in known}
    assert given >= {field.name for field in known if field.default is MISSING}


def test_every_task_of_the_original_has_examples() -> None:
    generated = {"T2A", "T2M", "TTS", "VC", "V2A", "V2M"}
    edited = {"Add", "Remove", "Extract", "Style Transfer"}
    assert {draw(kind, stream(1)).task for kind in KINDS} == generated | edited | {"understand"}


@pytest.mark.parametrize("kind", ["add", "remove", "extract", "style"])
def test_an_edit_changes_its_source_but_not_its_level(kind: str) -> None:
    for example in examples(kind, 40):
        assert example.source is not None
        assert np.abs(example.source).max() <= 0.91
        change = target(example) - example.source
        assert np.abs(change).max() > 0.02


def test_a_voice_example_begins_with_its_voice_clip() -> None:
    for example in examples("voice_conversion", 20):
        assert example.voice is not None
        assert np.array_equal(target(example)[: len(example.voice)], example.voice)


def test_what_has_an_order_begins_with_the_clip() -> None:
    """Words after a voice prompt begin where it ends."""
    for kind in ("chirp", "arpeggio", "speech"):
        assert all(np.abs(target(example)[:STEP_SAMPLES]).any() for example in examples(kind, 20))
    for kind in ("voice_speech", "voice_conversion"):
        for example in examples(kind, 20):
            assert example.voice is not None
            begun = target(example)[len(example.voice) :][:STEP_SAMPLES]
            assert np.abs(begun).any()


def test_without_a_voice_the_same_one_speaks() -> None:
    for example in examples("speech", 20):
        assert isinstance(example.truth, Speech)
        assert example.truth.voice == DEFAULT_VOICE


def test_clicks_are_evenly_spaced() -> None:
    counts = set()
    for example in examples("clicks", 60):
        assert isinstance(example.truth, Clicks)
        onsets_s = np.array(example.truth.onsets_s)
        assert np.allclose(np.diff(onsets_s), 2 * STEP_S)
        assert onsets_s[0] == 0
        counts.add(len(onsets_s))
    assert counts == {1, 2, 3, 4, 5, 6}


def test_kinds_are_drawn_as_often_as_their_weights_say() -> None:
    drawn = stream(4)
    weights = {"clicks": 3.0, "flashes": 1.0, "note": 0.0}
    found = Counter(draw_any(drawn, weights).kind for _ in range(400))
    assert set(found) == {"clicks", "flashes"}
    assert 260 <= found["clicks"] <= 340  # 300 ± 4.6 standard deviations


def test_the_weights_name_every_kind() -> None:
    assert set(AUDIO_WEIGHTS) == set(AUDIO_KINDS)
    assert set(QUESTION_WEIGHTS) == set(QUESTION_KINDS)
    assert sum(AUDIO_WEIGHTS.values()) == pytest.approx(1)


def test_unknown_kinds_and_weights_that_draw_nothing_are_refused() -> None:
    with pytest.raises(RequestError, match="unknown kind 'tone': expected one of note"):
        draw("tone", stream(1))
    with pytest.raises(RequestError, match="weights"):
        draw_any(stream(1), {"note": 0.0})


def test_data_and_tasks_need_numpy_only() -> None:
    code = (
        "import sys, omni_rt.export.miniature.data, omni_rt.export.miniature.tasks as tasks\n"
        "heavy = {'torch', 'scipy', 'onnx', 'soundfile'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
