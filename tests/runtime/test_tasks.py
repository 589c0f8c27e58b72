"""The tasks: what each takes, and what each says to the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from omni_rt.audio import Audio
from omni_rt.errors import RequestError
from omni_rt.preprocess.chat import VIDEO_TAG
from omni_rt.tasks import EDITING, GENERATION, Request, make_request

CLIP = Audio(np.ones((1, 10)), 10)
TEMPLATES = {
    "EDITING_ADD": "Add {desc}",
    "EDITING_REMOVE": "Remove {desc}",
    "EDITING_EXTRACT": "Extract {desc}",
    "EDITING_STYLE": "{source} to {target}",
}
REQUIRED: dict[str, dict[str, Any]] = {
    "T2A": {"prompt": "rain"},
    "T2M": {"prompt": "jazz"},
    "V2A": {"video": "in.mp4"},
    "V2M": {"video": "in.mp4"},
    "TTS": {"prompt": "hello"},
    "VC": {"transcript": "hello", "voice": CLIP, "voice_transcript": "bye"},
    "Add": {"source": CLIP, "desc": "rain"},
    "Remove": {"source": CLIP, "desc": "rain"},
    "Extract": {"source": CLIP, "desc": "rain"},
    "Style Transfer": {"source": CLIP, "source_category": "cat", "target_category": "dog"},
    "Speech": {"source": CLIP, "new_transcript": "good bye"},
}
CASES = list(REQUIRED.items())
OPTIONAL = {"VC": {"transcript", "voice_transcript"}}  # the thinker may be asked for these


def made(task: str, given: dict[str, Any]) -> Request:
    return make_request(task, given, among=GENERATION + EDITING)


def test_every_task_is_covered_here() -> None:
    assert {kind.task for kind in GENERATION + EDITING} == REQUIRED.keys()


@pytest.mark.parametrize(("task", "given"), CASES)
def test_a_task_is_made_of_its_arguments(task: str, given: dict[str, Any]) -> None:
    request = made(task, given)
    assert request.task == task
    assert all(getattr(request, name) == value for name, value in given.items())


@pytest.mark.parametrize(("task", "given"), CASES)
def test_names_ignore_case_and_punctuation(task: str, given: dict[str, Any]) -> None:
    for name in (task.lower(), task.upper(), task.replace(" ", "_"), f" {task} "):
        assert made(name, given) == made(task, given)


@pytest.mark.parametrize(("task", "given"), CASES)
def test_each_missing_argument_is_named(task: str, given: dict[str, Any]) -> None:
    for missing in given.keys() - OPTIONAL.get(task, set()):
        rest = {k: v for k, v in given.items() if k != missing}
        for arguments in (rest, {**rest, missing: None}):
            with pytest.raises(RequestError, match=f"{task} needs {missing}$"):
                made(task, arguments)


@pytest.mark.parametrize(("task", "given"), CASES)
def test_an_argument_of_another_task_is_named(task: str, given: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=f"{task} takes no volume; it takes "):
        made(task, {**given, "volume": 11})


@pytest.mark.parametrize(("task", "given"), CASES)
def test_none_counts_as_not_given(task: str, given: dict[str, Any]) -> None:
    assert made(task, {**given, "volume": None}) == made(task, given)


@pytest.mark.parametrize("task", ["", "T2X", "add rain", None, 3])
def test_an_unknown_task_is_refused_with_the_known_ones(task: Any) -> None:
    with pytest.raises(RequestError, match=r"unknown task .*T2A, T2M, V2A, V2M, TTS, VC"):
        made(task, {"prompt": "rain"})


def test_generation_and_editing_do_not_mix() -> None:
    with pytest.raises(RequestError, match="unknown task 'Add'"):
        make_request("Add", REQUIRED["Add"], among=GENERATION)
    with pytest.raises(RequestError, match="unknown task 'T2A'"):
        make_request("T2A", REQUIRED["T2A"], among=EDITING)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("T2A", "rain."),
        ("T2M", "jazz."),
        ("V2A", "\n<|vision_bos|><|VIDEO|><|vision_eos|>"),
        ("V2M", "\n<|vision_bos|><|VIDEO|><|vision_eos|>"),
        ("TTS", ""),
        ("VC", ""),
        ("Add", "Add rain"),
        ("Remove", "Remove rain"),
        ("Extract", "Extract rain"),
        ("Style Transfer", "cat to dog"),
        ("Speech", ""),
    ],
)
def test_the_users_turn_is_worded_as_the_model_was_trained(task: str, text: str) -> None:
    assert made(task, REQUIRED[task]).user_text(TEMPLATES) == text


def test_a_full_stop_is_added_even_after_one() -> None:
    assert made("T2A", {"prompt": "rain."}).user_text({}) == "rain.."


@pytest.mark.parametrize("task", ["T2A", "T2M"])
def test_a_negative_prompt_is_worded_as_the_prompt(task: str) -> None:
    assert made(task, REQUIRED[task]).negative_text("noise") == "noise."


@pytest.mark.parametrize(("task", "given"), CASES)
def test_only_speech_has_words_to_speak(task: str, given: dict[str, Any]) -> None:
    spoken = {"TTS": "hello", "VC": "bye. hello"}
    assert made(task, given).spoken() == spoken.get(task)


@pytest.mark.parametrize(("task", "given"), CASES)
def test_a_recording_conditions_through_its_log_mel(task: str, given: dict[str, Any]) -> None:
    assert made(task, given).clip() is given.get("source", given.get("voice"))


def test_only_sound_and_music_outlast_one_window() -> None:
    long = {kind.task for kind in GENERATION + EDITING if kind.long}
    assert long == {"T2A", "T2M", "V2A", "V2M"}


@pytest.mark.parametrize(("task", "before"), [("T2A", "x."), ("V2M", f"x\n{VIDEO_TAG}")])
def test_a_recording_to_go_by_ends_the_users_turn(task: str, before: str) -> None:
    request = made(task, {**REQUIRED[task], "prompt": "x", "audio": CLIP})
    assert request.user_text({}) == before + "<|audio_bos|><|AUDIO|><|audio_eos|>"
    assert request.example() is CLIP
    assert request.clip() is None  # it reaches the model through the thinker alone


@pytest.mark.parametrize(("name", "value"), [("frame_rule", "newest"), ("video", 3)])
def test_an_unusable_video_option_is_named(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name):
        made("V2A", {**REQUIRED["V2A"], name: value}).footage()


def test_a_voice_and_its_words_come_together() -> None:
    both = {"prompt": "hello", "voice": CLIP, "voice_transcript": "bye"}
    assert made("TTS", both).spoken() == "bye. hello"
    with pytest.raises(RequestError, match="voice needs voice_transcript"):
        made("TTS", {"prompt": "hello", "voice": CLIP}).spoken()
    with pytest.raises(RequestError, match="VC needs transcript"):
        made("VC", {"voice": CLIP, "voice_transcript": "bye"}).spoken()
    with pytest.raises(RequestError, match="without voice"):
        made("TTS", {"prompt": "hello", "voice_transcript": "bye"}).spoken()


@pytest.mark.parametrize("task", ["VC", "TTS"])
@pytest.mark.parametrize("words", ["", " ", 5])
def test_a_voices_words_are_text(task: str, words: Any) -> None:
    """TTS: tasks.py does not check voice_transcript as VC does."""
    arguments = {**(REQUIRED["VC"] if task == "VC" else {"prompt": "hello", "voice": CLIP})}
    with pytest.raises(RequestError, match="voice_transcript"):
        made(task, {**arguments, "voice_transcript": words}).spoken()


@pytest.mark.parametrize("text", ["", "  ", 3, "a<|im_end|>"])
@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("T2A", "prompt"),
        ("T2M", "prompt"),
        ("Add", "desc"),
        ("Style Transfer", "source_category"),
        ("Style Transfer", "target_category"),
    ],
)
def test_unusable_text_is_named(task: str, name: str, text: Any) -> None:
    with pytest.raises(RequestError, match=name):
        made(task, {**REQUIRED[task], name: text}).user_text(TEMPLATES)


@pytest.mark.parametrize("text", ["", "  ", 3])
@pytest.mark.parametrize(("task", "name"), [("TTS", "prompt"), ("VC", "transcript")])
def test_unusable_words_are_named(task: str, name: str, text: Any) -> None:
    with pytest.raises(RequestError, match=name):
        made(task, {**REQUIRED[task], name: text}).spoken()
