"""What the scores measure, against sounds whose facts are set here."""

from __future__ import annotations

import numpy as np
import pytest

from omni_rt.export.miniature.data import RATE_HZ, draw
from omni_rt.export.miniature.data.example import Stems
from omni_rt.export.miniature.data.render import Span, render
from omni_rt.export.miniature.data.sounds import Chirp, Chord, Clicks, Noise, Note
from omni_rt.export.miniature.data.speech import (
    PITCHES_HZ,
    SYLLABLES,
    VOICES,
    Speech,
    spoken,
)
from omni_rt.export.miniature.tasks import score, score_truth
from omni_rt.export.miniature.tasks.hearing import heard_speech
from omni_rt.export.miniature.tasks.onsets import click_onsets_s
from omni_rt.preprocess.waveform import trim_silence
from tests.export.miniature.results import degraded, examples, stream, target

_EARLY, _LATE = Span(onset_s=0.1, length_s=1.2), Span(onset_s=0.7, length_s=1.2)
_SOUNDS = {
    "note": Note(pitch=2, octave=4, shape="saw"),
    "chirp": Chirp(start_hz=300, end_hz=1500),
    "clicks": Clicks(onsets_s=(0.3, 0.7, 1.2)),
    "noise": Noise(colour="pink"),
    "chord": Chord(root=9, quality="minor"),
}
_PAIRS = [(a, b) for a in _SOUNDS for b in _SOUNDS if a != b and {a, b} != {"note", "chord"}]


@pytest.mark.parametrize(("kept", "gone"), _PAIRS)
@pytest.mark.parametrize("left_db", [-10, -20])
def test_the_residual_is_measured_whatever_the_phase_gain_and_hiss(
    kept: str, gone: str, left_db: int
) -> None:
    a, b = (render(_SOUNDS[k], s, stream(1)) for k, s in ((kept, _EARLY), (gone, _LATE)))
    # another stream: other phases, other noise
    c, d = (render(_SOUNDS[k], s, stream(2)) for k, s in ((kept, _EARLY), (gone, _LATE)))
    result = degraded(c + d * np.float32(10 ** (left_db / 20)), stream(3), snr_db=30)
    values = score_truth(Stems(kept=a, gone=b), result, RATE_HZ).values
    # noise and a chord's overtones hide soft clicks: how soft they are is then known less well
    hidden = (gone, left_db) == ("clicks", -20) and kept in ("noise", "chord")
    assert values["residual_db"] == pytest.approx(left_db, abs=8 if hidden else 3)
    assert values["kept_db"] > -2  # 3 dB is what a result may lose


@pytest.mark.parametrize("kept", list(_SOUNDS))
def test_half_of_what_was_to_stay_is_not_all_of_it(kept: str) -> None:
    a, b = (render(_SOUNDS[k], s, stream(1)) for k, s in ((kept, _EARLY), ("chirp", _LATE)))
    half = np.where(np.arange(len(a)) < 0.5 * RATE_HZ, a, 0).astype(np.float32)
    gone = b if kept != "chirp" else render(_SOUNDS["note"], _LATE, stream(1))
    values = score_truth(Stems(kept=a, gone=gone), half, RATE_HZ).values
    assert values["kept_db"] < -2.5


def test_silence_removes_but_keeps_nothing() -> None:
    example = draw("remove", stream(1))
    result = score(example, np.zeros(16_384, np.float32), RATE_HZ)
    assert result.values["kept_db"] == -60
    assert result.values["residual_db"] == -60
    assert not result.passed


def test_clicks_are_found_within_two_milliseconds() -> None:
    for example in examples("clicks", 60):
        assert isinstance(example.truth, Clicks)
        found = click_onsets_s(target(example))
        assert np.abs(np.subtract(found, example.truth.onsets_s)).max() < 0.002


@pytest.mark.parametrize("shift_s", [0.0, 0.02, 0.06])
def test_a_click_may_be_forty_milliseconds_off_its_flash(shift_s: float) -> None:
    """True clicks lie on steps, up to 16 ms from their flashes (`draw_flash_frames`)."""
    for example in examples("flashes", 20):
        late = np.roll(target(example), round(shift_s * RATE_HZ))
        values = score(example, late, RATE_HZ).values
        assert values["onset_error_s"] == pytest.approx(abs(shift_s), abs=0.016 + 0.003)
        assert values["onset"] == (abs(shift_s) < 0.04)


@pytest.mark.parametrize("shape", ["sine", "square", "saw", "triangle"])
@pytest.mark.parametrize("cents", [-120, -30, 30, 120])
def test_a_tone_may_be_half_a_semitone_off(shape: str, cents: int) -> None:
    note = Note(pitch=7, octave=3, shape=shape)
    wave = render(note, _EARLY, stream(1))
    at = np.arange(len(wave)) * 2 ** (cents / 1200)
    bent = np.interp(at, np.arange(len(wave)), wave, right=0).astype(np.float32)
    values = score_truth(note, bent, RATE_HZ).values
    assert values["pitch"] == (abs(cents) < 50)
    assert values["shape"] == 1
    assert values["pitch_hz"] == pytest.approx(note.hz * 2 ** (cents / 1200), rel=0.005)


def test_a_result_of_a_session_is_scored_after_its_cut() -> None:
    for example in examples("voice_speech", 30):
        assert example.voice is not None
        wave = np.stack([target(example)] * 2)
        cut = trim_silence(wave[:, len(example.voice) :], rate_hz=RATE_HZ)
        assert score(example, wave, RATE_HZ).passed
        assert score(example, cut, RATE_HZ).passed


def test_another_speaker_is_not_that_voice() -> None:
    passed = 0
    for example in examples("voice_conversion", 20):
        assert isinstance(example.truth, Speech)
        truth = example.truth
        other = Speech(
            syllables=truth.syllables,
            voice=(truth.voice + 1) % len(VOICES),
            prompt_s=truth.prompt_s,
        )
        result = score_truth(other, target(example), RATE_HZ)
        assert result.values["words"] == 1
        passed += result.passed
    assert passed == 0


def test_the_pitch_of_a_voice_is_measured() -> None:
    for example in examples("voice_conversion", 30):
        assert isinstance(example.truth, Speech)
        heard = heard_speech(target(example))
        wanted = VOICES[example.truth.voice].pitch_hz
        assert wanted in PITCHES_HZ
        assert heard.pitch_hz == pytest.approx(wanted, rel=0.06)
        assert heard.voice == example.truth.voice


@pytest.mark.parametrize("voice", range(len(VOICES)))
def test_the_pitch_of_every_syllable_is_measured(voice: int) -> None:
    """Also where a period ends between two samples and the second formant lies high."""
    for name in SYLLABLES:
        heard = heard_speech(spoken(name, voice))
        assert heard.syllables == (name,)
        assert heard.pitch_hz == pytest.approx(VOICES[voice].pitch_hz, rel=0.03)
        assert heard.voice == voice


def test_a_changed_syllable_is_heard() -> None:
    for example in examples("speech", 30):
        assert isinstance(example.truth, Speech)
        first, *rest = example.truth.syllables
        changed = ("ba" if first != "ba" else "di", *rest)
        other = Speech(syllables=changed, voice=example.truth.voice)
        result = score_truth(other, target(example), RATE_HZ)
        assert not result.passed
        assert 0 < result.values["syllables"] < 1
