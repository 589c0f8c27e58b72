"""Words of a recording replaced: what changes, what stays, and what the model is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_rt.audio import Audio, Samples, grid_bits, on_grid
from omni_rt.encode import Conditioning
from omni_rt.errors import RequestError
from omni_rt.manifest import Dims
from omni_rt.options import OnStep, Sampling
from omni_rt.plans import make_plan
from omni_rt.preprocess.speech_gaps import MARGIN_S
from omni_rt.preprocess.word_timing import WordTime, words
from omni_rt.speech_edit import FADE_S, SpeechEdit, edited_speech

from .preprocess.test_word_timing import SECONDS_PER_WEIGHT, babble
from .tiny_bundle import DIMS

MODEL = replace(
    DIMS, sample_rate_hz=16_000, window_samples=160_000, mel_frames=626, clip_samples=176_000
)
HOW = Sampling(plan=make_plan("euler-2"))
OLD = "The old clock in the hall, which nobody had wound for years, began to tick again."
Speaker = Callable[[Conditioning], Samples]


def echo(conditioning: Conditioning) -> Samples:
    """The context as a perfect model makes it, and a tone in the gap."""
    assert conditioning.waveform is not None
    assert conditioning.mel_keep is not None
    wave = np.zeros(MODEL.clip_samples, np.float32)
    wave[: MODEL.window_samples] = conditioning.waveform
    gap = np.repeat(~conditioning.mel_keep, 256)[: MODEL.window_samples]
    wave[: len(gap)][gap] = 0.3 * np.sin(np.arange(gap.sum()))
    return np.stack([wave, wave])


@dataclass
class FakePipeline:
    """Speaks as it is told; notes what it was asked for."""

    speaker: Speaker = echo
    dims: Dims = MODEL
    seeds: list[int] = field(default_factory=list)
    asked: list[Conditioning] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    normalised: list[bool] = field(default_factory=list)

    def condition(self, text: str) -> Conditioning:
        self.texts.append(text)
        return Conditioning(hidden=np.zeros((1, 8), np.float32))

    def clips(
        self,
        conditionings: Sequence[Conditioning],
        seeds: Sequence[int],
        how: Sampling,
        on_step: OnStep | None,
    ) -> list[Samples]:
        self.seeds += seeds
        self.asked += conditionings
        self.normalised.append(how.normalise)
        for step in range(how.plan.evaluations):
            if on_step is not None:
                on_step(step + 1, how.plan.evaluations)
        return [self.speaker(c) for c in conditionings]


def recording(
    text: str = OLD, *, channels: int = 1, rate_hz: int = 16_000, bits: int | None = 16
) -> tuple[Audio, list[WordTime]]:
    """Babble of a text; the second channel is half as loud."""
    speech, times = babble(words(text), rate_hz=rate_hz)
    levels = 0.5 ** np.arange(channels, dtype=np.float32)
    return Audio(on_grid(levels[:, None] * speech, bits), rate_hz), times


def edit(
    source: Audio, new: str, *, old: str = OLD, how: Sampling = HOW, pipeline: Any = None
) -> tuple[SpeechEdit, FakePipeline]:
    pipeline = FakePipeline() if pipeline is None else pipeline
    found = edited_speech(
        pipeline, pipeline.condition, source, transcript=old, new_transcript=new, how=how, seed=7
    )
    return found, pipeline


def is_kept_outside(source: Audio, found: SpeechEdit) -> bool:
    """Whether all samples outside the spans are the source's bits, in their places."""
    rate, at, made = source.sample_rate_hz, 0, 0
    for span in found.spans:
        start, stop = (round(float(span[name]) * rate) for name in ("from_s", "to_s"))
        new, end = (round(float(span[name]) * rate) for name in ("at_s", "until_s"))
        if not np.array_equal(source.samples[:, at:start], found.samples[:, made:new]):
            return False
        at, made = stop, end
    return np.array_equal(source.samples[:, at:], found.samples[:, made:])


EDITS = {
    "replacement": (OLD.replace("clock", "television"), [("clock", "television")]),
    "at the start": (OLD.replace("The old", "My brand new"), [("The old", "My brand new")]),
    "at the end": (OLD.replace("tick again.", "move."), [("tick again.", "move.")]),
    "insertion": (OLD.replace("the hall", "the dark hall"), [("", "dark")]),
    "insertion at the start": ("Look: " + OLD, [("", "Look:")]),
    "insertion at the end": (OLD + " It stopped.", [("", "It stopped.")]),
    "deletion": (OLD.replace(" old", ""), [("old", "")]),
    "deletion at the start": (OLD.replace("The old ", ""), [("The old", "")]),
    "deletion at the end": (OLD.replace(" again.", "."), [("again.", "")]),
    "two changes": (
        OLD.replace("old", "ancient").replace("years", "a century"),
        [("old", "ancient"), ("years,", "a century,")],
    ),
    "two changes with one short word between": (
        OLD.replace("clock in the", "mirror at the"),
        [("clock in", "mirror at")],
    ),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize(
    ("channels", "rate_hz"), [(1, 16_000), (2, 44_100), (2, 48_000), (8, 8000)]
)
def test_samples_outside_the_spans_stay_to_the_bit(name: str, channels: int, rate_hz: int) -> None:
    source, _ = recording(channels=channels, rate_hz=rate_hz)
    new, expected = EDITS[name]
    found, pipeline = edit(source, new)
    assert [(span["old"], span["new"]) for span in found.spans] == expected
    assert found.samples.shape[0] == channels
    assert found.samples.dtype == np.float32
    assert is_kept_outside(source, found)
    lengths = [
        float(s["until_s"]) - float(s["at_s"]) - float(s["to_s"]) + float(s["from_s"])
        for s in found.spans
    ]
    assert found.samples.shape[1] - source.samples.shape[1] == round(sum(lengths) * rate_hz)
    assert len(pipeline.seeds) == len(expected)


@pytest.mark.parametrize("name", EDITS)
def test_only_the_changed_words_and_their_margins_are_new(name: str) -> None:
    source, times = recording()
    found, _ = edit(source, EDITS[name][0])
    spoken = words(OLD)
    for span in found.spans:
        gone = words(str(span["old"]))
        if not gone:
            continue
        first = next(i for i in range(len(spoken)) if spoken[i : i + len(gone)] == gone)
        start, stop = times[first].start_s, times[first + len(gone) - 1].stop_s
        pause = 0.6 if not span["new"] else 0.0  # of a deleted word one pause goes with it
        assert float(span["from_s"]) == pytest.approx(start - MARGIN_S / 2, abs=0.08 + pause)
        assert float(span["to_s"]) == pytest.approx(stop + MARGIN_S / 2, abs=0.08 + pause)


def test_new_words_are_spoken_at_the_speakers_rate() -> None:
    source, _ = recording()
    found, _ = edit(source, OLD.replace("clock", "refrigerator"))
    (span,) = found.spans
    lasts = float(span["until_s"]) - float(span["at_s"])
    assert lasts == pytest.approx(7.4 * SECONDS_PER_WEIGHT + 2 * MARGIN_S, abs=0.12)


# What the model hears


@pytest.mark.parametrize("name", EDITS)
def test_the_window_reads_what_is_heard(name: str) -> None:
    """From right to left: left of a change the old words are heard, right of it the new."""
    source, _ = recording()
    new, expected = EDITS[name]
    _, pipeline = edit(source, new)
    assert pipeline.texts[-1] == new
    if len(expected) == 2:
        assert pipeline.texts[0] == OLD.replace("years", "a century")
    assert pipeline.normalised == [False] * len(expected)


def test_words_that_stay_are_spelled_as_in_the_new_transcript() -> None:
    source, _ = recording()
    _, pipeline = edit(source, OLD.upper().replace("CLOCK", "watch"))
    assert pipeline.texts == [OLD.upper().replace("CLOCK", "watch")]


def test_the_gap_is_silent_and_its_frames_are_masked() -> None:
    source, _ = recording()
    found, pipeline = edit(source, OLD.replace("clock", "television"))
    (span,), (asked,) = found.spans, pipeline.asked
    assert asked.waveform is not None
    assert asked.mel_keep is not None
    assert asked.waveform.shape == (MODEL.window_samples,)
    start, stop = (round(float(span[name]) * 16_000) for name in ("at_s", "until_s"))
    assert not asked.waveform[start:stop].any()
    total = found.samples.shape[1]
    assert np.array_equal(asked.waveform[:start], found.samples[0, :start])
    assert np.array_equal(asked.waveform[stop:total], found.samples[0, stop:])
    hears = np.array([(256 * f - 512 < stop) and (256 * f + 512 > start) for f in range(626)])
    assert np.array_equal(asked.mel_keep, ~hears)


def test_a_change_late_in_a_long_recording_is_heard_in_one_window() -> None:
    text = " ".join([OLD] * 10)
    new = " ".join([OLD] * 9 + [OLD.replace("clock", "television")])
    source, _ = recording(text, channels=2, rate_hz=44_100)
    assert source.duration_s > 40
    found, pipeline = edit(source, new, old=text)
    assert is_kept_outside(source, found)
    (asked,) = pipeline.asked
    assert asked.waveform is not None
    assert asked.waveform.shape == (MODEL.window_samples,)
    assert pipeline.texts[0] in new
    assert "television" in pipeline.texts[0]
    assert 15 < len(words(pipeline.texts[0])) < 40
    edges = np.abs(asked.waveform[[0, 1, 2]])
    assert edges.max() < 0.05  # cut between two words


def test_every_change_of_a_long_recording_has_its_own_window() -> None:
    text = " ".join([OLD] * 6)
    new = " ".join([OLD.replace("clock", "watch")] * 6)
    source, _ = recording(text)
    steps: list[tuple[int, int]] = []
    how = replace(HOW, on_step=lambda done, of: steps.append((done, of)))
    found, pipeline = edit(source, new, old=text, how=how)
    assert is_kept_outside(source, found)
    assert pipeline.seeds == [12, 11, 10, 9, 8, 7]  # from right to left
    assert steps == [(i + 1, 12) for i in range(12)]
    assert len(found.spans) == 6
    for text_heard in pipeline.texts:
        assert "watch" in text_heard


# Sound


@pytest.mark.parametrize("level", [0.2, 1.0, 4.0])
def test_new_words_are_as_loud_as_the_recording(level: float) -> None:
    def speaker(conditioning: Conditioning) -> Samples:
        return echo(conditioning) * np.float32(level)

    source, _ = recording(channels=2)
    new = OLD.replace("clock", "television")
    reference, _ = edit(source, new)
    found, _ = edit(source, new, pipeline=FakePipeline(speaker=speaker))
    assert np.allclose(found.samples, reference.samples, atol=2e-4)
    (span,) = found.spans
    middle = round((float(span["at_s"]) + float(span["until_s"])) / 2 * 16_000)
    left, right = found.samples[:, middle - 800 : middle + 800]
    assert np.allclose(right, left / 2, atol=1e-4)  # as the source's channels are
    assert left.std() > 0.05


def test_the_level_is_matched_within_20_db_and_nothing_clips() -> None:
    def whisper(conditioning: Conditioning) -> Samples:
        return echo(conditioning) * np.float32(1e-4)

    def shout(conditioning: Conditioning) -> Samples:
        clip = echo(conditioning)
        gap = np.repeat(~np.asarray(conditioning.mel_keep), 256)[: MODEL.window_samples]
        clip[:, : len(gap)][:, gap] *= 100
        return clip

    source, _ = recording(channels=2)
    new = OLD.replace("clock", "television")
    for speaker, loudest in ((whisper, 0.001), (shout, 1.0)):
        found, _ = edit(source, new, pipeline=FakePipeline(speaker=speaker))
        (span,) = found.spans
        start, stop = (round(float(span[name]) * 16_000) for name in ("at_s", "until_s"))
        inside = found.samples[:, start + 400 : stop - 400]
        assert np.abs(inside).max() == pytest.approx(loudest, rel=0.7)
        assert np.abs(found.samples).max() <= 1.0
        assert np.allclose(inside[1], inside[0] / 2, atol=1e-4)


def test_a_silent_channel_stays_silent() -> None:
    source, _ = recording(channels=2)
    muted = Audio(source.samples * np.array([[1.0], [0.0]], np.float32), 16_000)
    found, _ = edit(muted, OLD.replace("clock", "television"))
    assert found.samples[0].any()
    assert not found.samples[1].any()


def test_the_fades_lie_inside_the_span() -> None:
    """A model that says nothing: what is heard in the span is the source, fading."""
    source, _ = recording(bits=None)

    def mute(_: Conditioning) -> Samples:
        return np.zeros((2, MODEL.clip_samples), np.float32)

    found, _ = edit(source, OLD.replace("clock", "watch"), pipeline=FakePipeline(speaker=mute))
    assert is_kept_outside(source, found)
    (span,) = found.spans
    start, stop = (round(float(span[name]) * 16_000) for name in ("at_s", "until_s"))
    fade = round(FADE_S * 16_000)
    assert found.samples[0, start : start + fade].any()
    assert not found.samples[0, start + fade : stop - fade].any()
    assert found.samples[0, stop - fade : stop].any()


@pytest.mark.parametrize("bits", [16, 24, None])
def test_new_samples_lie_on_the_sources_grid_and_a_file_keeps_them(
    bits: int | None, tmp_path: Path
) -> None:
    source, _ = recording(bits=bits)
    found, _ = edit(source, OLD.replace("clock", "watch"))
    assert grid_bits(found.samples) == bits
    path = Audio(found.samples, 16_000, recorded=True).save(tmp_path / "edited.wav")
    assert np.array_equal(Audio.read(path).samples, found.samples)


def test_the_same_seed_gives_the_same_bits() -> None:
    source, _ = recording()
    first, second = (edit(source, OLD.replace("clock", "watch"))[0] for _ in range(2))
    assert np.array_equal(first.samples, second.samples)


# Errors


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (OLD, OLD.upper() + "!", "nothing to change"),
        (OLD, "Entirely different words.", "no word of the recording would remain"),
        (OLD, "", "new_transcript is empty"),
        ("...", OLD, "transcript holds no words"),
        (OLD, 3, "new_transcript must be text"),
        ("clock", "clock radio", "are they its words"),
        (OLD, OLD.replace("clock", "very " * 40 + "old clock"), "split the change"),
    ],
)
def test_what_cannot_be_edited_is_refused_before_anything_runs(
    old: Any, new: Any, message: str
) -> None:
    source, _ = recording()
    pipeline = FakePipeline()
    with pytest.raises(RequestError, match=message):
        edit(source, new, old=old, pipeline=pipeline)
    assert pipeline.asked == []


def test_a_short_word_between_two_changes_is_no_voice_to_go_by() -> None:
    source, _ = recording("television a refrigerator")
    with pytest.raises(RequestError, match="no word of the recording would remain"):
        edit(source, "radio a microwave", old="television a refrigerator")


def test_a_model_that_makes_less_than_it_hears_is_asked_for_less() -> None:
    text = " ".join([OLD] * 4)
    source, _ = recording(text)
    pipeline = FakePipeline(dims=replace(MODEL, clip_samples=80_000))
    found, _ = edit(source, text.replace("clock", "watch", 1), old=text, pipeline=pipeline)
    assert is_kept_outside(source, found)
    (asked,) = pipeline.asked
    assert not np.any(asked.waveform[80_000:])


def test_silence_cannot_be_edited() -> None:
    with pytest.raises(RequestError, match="no speech"):
        edit(Audio(np.zeros((1, 16_000)), 16_000), "new words", old="old words")
