"""Questions and videos on the stand-in: every promise of `understand`, `transcribe` and V2A."""

from __future__ import annotations

import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_rt import (
    Audio,
    BundleError,
    Cancelled,
    EngineError,
    RequestError,
    Session,
    TextToSpeech,
    Turn,
    VideoToAudio,
    VoiceConversion,
)

pytestmark = pytest.mark.slow

RATE = 16_000
PLAN = "euler-2"
Calls = dict[str, int]


def hum(seconds: float, *, hz: float = 200.0, rate: int = RATE) -> Audio:
    t = np.arange(round(seconds * rate)) / rate
    return Audio((0.3 * np.sin(2 * np.pi * hz * t))[None].astype(np.float32), rate)


def write_video(
    path: Path, *, seconds: float = 2.0, fps: int = 10, px: int = 64, sounding: bool = False
) -> Path:
    """Frames whose grey level tells their number; with or without a sound track."""
    import av

    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=fps)
        picture.width = picture.height = px
        picture.time_base = Fraction(1, fps)
        track = container.add_stream("aac", rate=RATE, layout="mono") if sounding else None
        for i in range(round(seconds * fps)):
            level = np.full((px, px, 3), 8 * i % 250, np.uint8)
            frame = av.VideoFrame.from_ndarray(level, format="rgb24")
            frame.pts = i
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if track is not None:
            sound = av.AudioFrame.from_ndarray(hum(seconds).samples, format="fltp", layout="mono")
            sound.sample_rate = RATE
            container.mux(track.encode(sound))
            container.mux(track.encode(None))
    return path


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "silent.mp4")


@pytest.fixture(scope="module")
def sounding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "sounding.mp4", sounding=True)


@pytest.fixture
def fresh(standin_bundle: Path) -> Session:
    """A session with nothing in its caches."""
    return Session(standin_bundle)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """How often each stage is run."""
    from omni_rt.engines.ort import OrtEngine

    counted: Calls = {}
    run = OrtEngine.run

    def counting(self: OrtEngine, **inputs: Any) -> Any:
        counted[self._name] = counted.get(self._name, 0) + 1
        return run(self, **inputs)

    monkeypatch.setattr(OrtEngine, "run", counting)
    return counted


# Answers


def test_a_greedy_answer_is_the_same_every_time(session: Session) -> None:
    one, two = (
        session.understand("What do you hear?", audio=hum(1.0), max_new_tokens=8, seed=seed)
        for seed in (1, 2)
    )
    assert one.text == two.text
    assert one.tokens == two.tokens == 8
    assert not one.complete


def test_a_cached_answer_is_that_of_a_session_that_knows_nothing(
    session: Session, fresh: Session
) -> None:
    """The key-value cache changes what is computed, not what comes out."""
    first = session.understand("One?", audio=hum(0.5), max_new_tokens=6)
    warm = session.understand("Two?", history=first.history, max_new_tokens=6)
    cold = fresh.understand("Two?", history=first.history, max_new_tokens=6)
    assert warm.reused_tokens > cold.reused_tokens == 0
    assert warm.text == cold.text
    assert warm.prompt_tokens == cold.prompt_tokens


def test_any_two_questions_share_the_systems_turn(fresh: Session) -> None:
    fresh.understand("a", max_new_tokens=1)
    reply = fresh.understand("b", max_new_tokens=1)
    system = fresh.bundle.prompts["SYSTEM_UNDERSTANDING"]
    assert reply.reused_tokens >= len(system.encode())


def test_other_media_are_not_taken_for_the_same(fresh: Session) -> None:
    """Placeholders have equal ids whatever they stand for; the cache must tell them apart."""
    fresh.understand("What?", audio=hum(1.0, hz=200), max_new_tokens=4)
    warm = fresh.understand("What?", audio=hum(1.0, hz=900), max_new_tokens=4)
    with Session(fresh.bundle.directory) as other:
        cold = other.understand("What?", audio=hum(1.0, hz=900), max_new_tokens=4)
    assert warm.text == cold.text


def test_a_drawn_answer_follows_its_seed(session: Session) -> None:
    def drawn(seed: int) -> str:
        return session.understand("a", temperature=1.0, seed=seed, max_new_tokens=12).text

    assert drawn(1) == drawn(1)
    unsaid = session.understand("a", temperature=1.0, max_new_tokens=12)
    assert drawn(unsaid.seed) == unsaid.text
    assert len({drawn(seed) for seed in range(4)}) > 1


def test_the_pieces_are_the_answer(session: Session) -> None:
    pieces: list[str] = []
    reply = session.understand(
        "a", temperature=1.0, seed=3, max_new_tokens=24, stream=pieces.append
    )
    assert "".join(pieces) == reply.text
    assert len(pieces) > 1


def test_a_conversation_is_remembered(session: Session) -> None:
    reply = session.understand("One?", audio=hum(0.5), max_new_tokens=2)
    assert [turn.question for turn in reply.history] == ["One?"]
    alone = session.understand("Two?", max_new_tokens=2)
    after = session.understand("Two?", history=reply.history, max_new_tokens=2)
    in_turn = 12  # tokens of half a second's sound; the words and the answer come on top
    assert after.prompt_tokens > alone.prompt_tokens + in_turn
    assert [turn.question for turn in after.history] == ["One?", "Two?"]
    told = session.understand("Two?", history=[("One?", "Yes.")], max_new_tokens=2)
    assert told.history[0] == Turn(question="One?", answer="Yes.")


def test_cancelling_leaves_the_session_ready(session: Session) -> None:
    cancel = threading.Event()
    pieces: list[str] = []

    def stop_after_some(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 2:
            cancel.set()

    with pytest.raises(Cancelled):
        session.understand(
            "a", temperature=1, seed=3, max_new_tokens=500, stream=stop_after_some, cancel=cancel
        )
    assert session.understand("a", max_new_tokens=1).tokens == 1


def test_a_callback_that_fails_or_calls_back_harms_nothing(session: Session) -> None:
    before = session.understand("a", temperature=1, seed=3, max_new_tokens=6).text

    def calls_back(_: str) -> None:
        session.understand("b")

    def fails(_: str) -> None:
        raise KeyError("mine")

    for stream, error in ((calls_back, RequestError), (fails, KeyError)):
        with pytest.raises(error):
            session.understand("a", temperature=1, seed=3, max_new_tokens=6, stream=stream)
    assert session.understand("a", temperature=1, seed=3, max_new_tokens=6).text == before


def test_staged_memory_gives_the_same_answer(standin_bundle: Path, session: Session) -> None:
    with Session(standin_bundle, memory="staged") as staged:
        found = staged.understand("What?", audio=hum(1.0), max_new_tokens=4)
    assert found.text == session.understand("What?", audio=hum(1.0), max_new_tokens=4).text


@pytest.mark.parametrize("question", ["", "  ", 3, None, "a<|im_end|>", "<|AUDIO|>"])
def test_an_unusable_question_is_refused(question: Any, session: Session) -> None:
    with pytest.raises(RequestError, match="question"):
        session.understand(question)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"stream": 3}, "stream"),
        ({"cancel": 3}, "cancel"),
        ({"history": "text"}, "history"),
        ({"history": [3]}, "history"),
        ({"history": [("a", "<|im_end|>")]}, "special token"),
        ({"audio": 3}, "audio must be a path"),
        ({"audio": "none.wav"}, "no audio file"),
        ({"audio": Audio(np.zeros((1, 0), np.float32), RATE)}, "no samples"),
        ({"audio": Audio(np.zeros((1, 160), np.float32), RATE)}, "too short"),
        ({"audio": Audio(np.zeros((1, 301 * 100), np.float32), 100)}, "at most 300 s"),
        ({"video": "none.mp4"}, "no video file"),
        ({"video": 3}, "video must be a path"),
        ({"frame_rule": "newest"}, "frame_rule"),
        ({"small_frames": "yes"}, "small_frames"),
        ({"question": "a" * 40_000}, "shorten"),
    ],
)
def test_what_cannot_be_asked_is_one_request_error(
    given: dict[str, Any], message: str, session: Session
) -> None:
    with pytest.raises(RequestError, match=message):
        session.understand(**{"question": "What?", **given})
    assert session.understand("a", max_new_tokens=1).tokens == 1


def test_a_tenth_of_a_second_can_be_heard(session: Session) -> None:
    assert session.understand("What?", audio=hum(0.1), max_new_tokens=1).tokens == 1


def test_a_closed_session_says_so(standin_bundle: Path) -> None:
    session = Session(standin_bundle)
    session.understand("a", max_new_tokens=1)
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.understand("a")


# Words of recordings


def test_words_that_are_not_given_are_listened_for(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float] = []

    def transcribe(self: Session, speech: Audio, **_: Any) -> str:
        heard.append(speech.duration_s)
        return "what was said"

    monkeypatch.setattr(Session, "transcribe", transcribe)
    audio = session.generate("TTS", prompt="hello", voice=hum(8.0), plan=PLAN, seed=1)
    assert audio.made["voice_transcript"] == "what was said"
    assert heard == [6.0]  # what the model hears of a voice
    said = session.generate(
        "TTS", prompt="hello", voice=hum(8.0), voice_transcript="what was said", plan=PLAN, seed=1
    )
    assert np.array_equal(said.samples, audio.samples)
    request = VoiceConversion(voice=hum(2.0), source=hum(9.0))
    (converted,) = session.generate_batch([request], plan=PLAN)
    assert converted.made["transcript"] == "what was said"
    assert sorted(heard[1:]) == [2.0, 9.0]


def test_a_recording_without_words_is_refused(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omni_rt.answering import Answerer

    monkeypatch.setattr(Answerer, "tokens", lambda *_, **__: iter(()))
    with pytest.raises(RequestError, match="no words were heard"):
        session.transcribe(hum(1.0))


def test_a_transcript_that_is_cut_is_no_transcript(session: Session) -> None:
    """The stand-in never stops talking."""
    with pytest.raises(RequestError, match="no end after 256 tokens"):
        session.transcribe(hum(1.0))


def test_what_else_is_wrong_is_said_before_anything_is_listened_to(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> str:
        raise AssertionError("listened")

    monkeypatch.setattr(Session, "transcribe", never)
    with pytest.raises(RequestError, match="prompt is empty"):
        session.generate("TTS", prompt="", voice=hum(2.0))


# Videos


def test_a_video_is_seen_and_heard(session: Session, silent: Path, sounding: Path) -> None:
    def tokens(**given: Any) -> int:
        return session.understand("What?", max_new_tokens=1, **given).prompt_tokens

    seen = tokens(video=silent)
    assert seen > tokens()
    assert tokens(video=sounding, video_sound=False) == seen
    both = tokens(video=sounding)
    assert both - seen == pytest.approx(2 + 2 * 25, abs=3)  # two tags, 25 tokens a second
    assert seen - tokens(video=silent, small_frames=True) == 2 * (12 * 12 - 8 * 8)  # two grids


def test_a_videos_sound_lasts_as_long_as_it_does(session: Session, silent: Path) -> None:
    audio = session.generate("V2A", prompt="clicks", video=silent, plan=PLAN, seed=1)
    assert audio.samples.shape == (2, 2 * 44_100)
    assert audio.made["video"] == silent
    assert not np.array_equal(
        audio.samples,
        session.generate("V2M", prompt="clicks", video=silent, plan=PLAN, seed=1).samples,
    )


def test_what_is_seen_changes_what_is_heard(session: Session, silent: Path, tmp_path: Path) -> None:
    other = write_video(tmp_path / "other.mp4", seconds=2.0, fps=5)
    one, two = (
        session.generate("V2A", video=video, plan=PLAN, seed=1, normalise=False).samples
        for video in (silent, other)
    )
    assert np.abs(one - two).max() > 1e-4


def test_features_are_computed_once_for_the_same_video(
    fresh: Session, silent: Path, calls: Calls
) -> None:
    first = fresh.generate("V2A", video=silent, plan=PLAN, seed=1)
    ran = dict(calls)
    second = fresh.generate("V2A", video=silent, plan=PLAN, seed=1)
    assert np.array_equal(first.samples, second.samples)
    assert ran["synchformer"] == 15
    for stage in ("synchformer", "vision_tower", "thinker_cond"):
        assert calls[stage] == ran[stage]


def test_each_window_of_a_longer_video_has_its_own_frames(fresh: Session, tmp_path: Path) -> None:
    """Segments of a video that changes differ in their conditioning; of a picture they do not."""
    video = write_video(tmp_path / "long.mp4", seconds=13.0, fps=5)
    request = VideoToAudio(video=video)
    found = fresh._pipeline.encode(request, None, windows=fresh._windows(request, 2))
    assert len(found) == 2
    assert not np.array_equal(found[0].sync, found[1].sync)
    assert not np.array_equal(found[0].hidden, found[1].hidden)
    audio = fresh.generate("V2A", video=video, plan=PLAN, seed=1)
    assert audio.duration_s == pytest.approx(13.0, abs=0.01)


def test_a_picture_is_a_video_that_stands_still(session: Session, tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "red.png"
    Image.new("RGB", (40, 30), (200, 0, 0)).save(picture)
    assert session.generate("V2A", video=picture, plan=PLAN, seed=1).duration_s == 10.0
    short = session.generate("V2A", video=picture, duration_s=1.5, plan=PLAN, seed=1)
    assert short.duration_s == 1.5
    assert session.understand("What?", video=picture, max_new_tokens=1).tokens == 1


def test_videos_mix_with_other_requests_in_a_batch(session: Session, silent: Path) -> None:
    requests = [VideoToAudio(video=silent), TextToSpeech(prompt="hello")]
    video, _ = session.generate_batch(requests, seeds=[1, 2], plan=PLAN)
    alone = session.generate("V2A", video=silent, plan=PLAN, seed=1)
    assert video.samples.shape == alone.samples.shape
    assert np.abs(video.samples - alone.samples).max() < 1e-3  # padded context, fp32


def test_a_recording_to_go_by_is_heard(session: Session) -> None:
    plain = session.generate("T2A", prompt="more", plan=PLAN, seed=1)
    led = session.generate("T2A", prompt="more", audio=hum(2.0), plan=PLAN, seed=1)
    assert not np.array_equal(plain.samples, led.samples)


@pytest.mark.parametrize("words", ["雨の音", "صوت المطر", "pluie sur un toit", "🌧️"])
def test_any_language_may_be_asked_in(words: str, session: Session) -> None:
    assert session.generate("T2A", prompt=words, plan=PLAN, seed=1).duration_s == 10.0
    assert session.understand(words, max_new_tokens=1).tokens == 1


def test_a_missing_library_is_named(
    session: Session, silent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RequestError, match=r"pip install 'omni_rt\[video\]'"):
        session.generate("V2A", video=silent)
    with pytest.raises(RequestError, match=r"pip install 'omni_rt\[video\]'"):
        session.understand("What?", video=silent)


def test_questions_of_many_threads_do_not_mix(session: Session) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def answer(words: str) -> str:
        return session.understand(words, max_new_tokens=6).text

    asked = ["one", "two", "three", "four"] * 3
    alone = [answer(words) for words in asked[:4]] * 3
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, asked)) == alone


def test_segments_of_a_video_come_as_they_are_made(session: Session, tmp_path: Path) -> None:
    video = write_video(tmp_path / "long.mp4", seconds=13.0, fps=5)
    given: dict[str, Any] = {"plan": PLAN, "seed": 1, "duration_s": 13.0}
    pieces = session.generate_segments(VideoToAudio(video=video), **given)
    joined = np.concatenate([piece.samples for piece in pieces], axis=1)
    assert np.array_equal(joined, session.generate("V2A", video=video, **given).samples)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "V2A needs video"),
        ({"video": "none.mp4"}, "no video file"),
        ({"video": __file__}, "text|not a video"),
        ({"video": 3}, "video must be a path"),
        ({"frame_rule": "newest"}, "frame_rule"),
        ({"voice": 3}, "takes no voice"),
        ({"duration_s": 601.0}, "duration_s"),
    ],
)
def test_unusable_videos_are_one_request_error(
    given: dict[str, Any], message: str, session: Session, silent: Path
) -> None:
    arguments = {"video": silent, **given} if given else {}
    with pytest.raises(RequestError, match=message):
        session.generate("V2A", plan=PLAN, **arguments)


def test_a_bundle_without_a_sense_says_which(standin: Path, tmp_path: Path, silent: Path) -> None:
    from omni_rt.export.build import export_bundle
    from omni_rt.export.sources import ExportOptions

    directory = export_bundle(
        ExportOptions(
            config=standin / "config.json",
            checkpoint=standin / "model.safetensors",
            qwen=standin / "qwen",
            upstream=standin / "upstream",
            stages=("thinker_embed", "thinker_lm"),
            out=tmp_path / "bundle",
        )
    )
    with Session(directory) as deaf:
        assert deaf.understand("a", max_new_tokens=1).tokens == 1
        with pytest.raises(BundleError, match="no 'audio_tower' stage"):
            deaf.understand("a", audio=hum(1.0))
        with pytest.raises(BundleError, match="no 'vision_tower' stage"):
            deaf.understand("a", video=silent)
        with pytest.raises(BundleError, match="stage"):
            deaf.generate("V2A", video=silent)


# Words replaced in a recording


def bursts(rate: int = RATE) -> Audio:
    """Four bursts of noise with pauses between: four words, as far as timing is concerned."""
    stream, gap = np.random.RandomState(0), np.zeros(round(0.2 * rate))
    word = 0.3 * stream.standard_normal(round(0.4 * rate)) * np.hanning(round(0.4 * rate))
    samples = np.concatenate([np.concatenate([gap, word]) for _ in range(4)] + [gap])
    stereo = np.stack([samples, 0.5 * samples])
    return Audio((np.round(stereo * 32768) / 32768).astype(np.float32), rate)


def test_outside_the_spans_a_speech_edit_keeps_every_bit(session: Session, tmp_path: Path) -> None:
    source = bursts()
    given = {"transcript": "one two tree four", "new_transcript": "one two seven four"}
    edited = session.edit("Speech", source, plan=PLAN, seed=1, **given)
    assert edited.sample_rate_hz == RATE
    assert len(edited.samples) == 2
    (span,) = edited.made["spans"]
    assert (span["old"], span["new"]) == ("tree", "seven")
    start, stop = round(span["from_s"] * RATE), round(span["to_s"] * RATE)
    after = round(span["until_s"] * RATE)
    assert np.array_equal(edited.samples[:, : start - 1], source.samples[:, : start - 1])
    assert np.array_equal(edited.samples[:, after + 1 :], source.samples[:, stop + 1 :])
    assert not np.array_equal(edited.samples[:, start:after], source.samples[:, start:stop])
    saved = Audio.read(edited.save(tmp_path / "out.wav"))
    assert np.array_equal(saved.samples, edited.samples)


def test_the_words_of_a_recording_may_be_listened_for(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "transcribe", lambda *_, **__: "one two tree four")
    edited = session.edit("Speech", bursts(), new_transcript="one two five four", plan=PLAN, seed=1)
    assert edited.made["transcript"] == "one two tree four"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"transcript": "a b"}, "Speech needs new_transcript"),
        ({"transcript": "one two", "new_transcript": "one two"}, "nothing to change"),
        ({"transcript": " ", "new_transcript": "a"}, "transcript is empty"),
        ({"transcript": "a", "new_transcript": "b", "desc": "c"}, "takes no desc"),
    ],
)
def test_what_cannot_be_said_instead_is_refused(
    given: dict[str, str], message: str, session: Session
) -> None:
    with pytest.raises(RequestError, match=message):
        session.edit("Speech", bursts(), plan=PLAN, **given)
