"""Sound in memory and in files."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.audio import Audio, grid_bits, on_grid, peak_normalised
from omni_rt.errors import RequestError

RATE = 44_100


def tone(*, channels: int = 2, samples: int = 8192, rate_hz: int = RATE) -> Audio:
    """Half as loud as can be, the same in every channel."""
    time = np.arange(samples, dtype=np.float32) * np.float32(0.05)
    return Audio(np.tile(np.sin(time) / 2, (channels, 1)), rate_hz)


def in_folder(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@given(st.floats(-2, 2, width=32))
def test_int16_is_clamped_then_truncated_toward_zero(value: float) -> None:
    found = int(Audio(np.array([[value]]), RATE).int16()[0, 0])
    scaled = np.float32(min(max(value, -1.0), 1.0)) * np.float32(32767)
    assert found == int(scaled)  # int() truncates toward zero


def test_int16_is_symmetric() -> None:
    samples = np.linspace(-1.5, 1.5, 1001, dtype=np.float32)[None]
    assert np.array_equal(Audio(samples, RATE).int16(), -Audio(-samples, RATE).int16())
    assert Audio(samples, RATE).int16().min() == -32767


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV", ".Flac"])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_lossless_files_hold_the_16_bit_samples(tmp_path: Path, suffix: str, channels: int) -> None:
    clip = tone(channels=channels)
    found = Audio.read(clip.save(tmp_path / f"clip{suffix}"))
    assert found.sample_rate_hz == RATE
    assert np.array_equal(found.samples, clip.int16() / np.float32(32768))
    assert in_folder(tmp_path) == [f"clip{suffix}"]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("bits", [16, 24])
def test_a_recording_is_saved_as_it_was_read(tmp_path: Path, suffix: str, bits: int) -> None:
    full = 1 << (bits - 1)
    steps = np.random.default_rng(0).integers(-full, full, (4000, 2))
    steps[:4] = [[-full, full - 1], [0, 1], [-1, full - 2], [1 - full, full // 2]]
    written = (steps << (32 - bits)).astype(np.int32)
    soundfile.write(tmp_path / f"in{suffix}", written, RATE, subtype=f"PCM_{bits}")
    clip = Audio.read(tmp_path / f"in{suffix}")
    assert clip.recorded
    assert grid_bits(clip.samples) == bits
    path = clip.save(tmp_path / f"out{suffix}")
    assert soundfile.info(path).subtype == f"PCM_{bits}"
    assert np.array_equal(Audio.read(path).samples, clip.samples)
    assert np.array_equal(soundfile.read(path, dtype="int32")[0], written)


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_32", "DOUBLE"])
def test_a_recording_of_more_than_24_bits_is_kept_in_a_wav(tmp_path: Path, subtype: str) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (4000, 2))
    soundfile.write(tmp_path / "in.wav", samples, RATE, subtype=subtype)
    clip = Audio.read(tmp_path / "in.wav")
    found = Audio.read(clip.save(tmp_path / "out.wav"))
    assert np.array_equal(found.samples, clip.samples)
    rounded = Audio.read(clip.save(tmp_path / "out.flac"))
    assert np.array_equal(rounded.samples, on_grid(clip.samples, 24))


def test_what_the_model_made_is_saved_as_the_original_does(tmp_path: Path) -> None:
    made = Audio(on_grid(tone().samples, 24), RATE)
    path = made.save(tmp_path / "made.wav")
    assert not made.recorded
    assert soundfile.info(path).subtype == "PCM_16"
    assert np.array_equal(Audio.read(path).samples, made.int16() / np.float32(32768))


@pytest.mark.parametrize(
    ("samples", "bits"),
    [([0.0, 0.5, -1.0], 16), ([1 - 2**-15], 16), ([2**-16], 24), ([1.0], None), ([1e-9], None)],
)
def test_a_grid_holds_samples_exactly_or_not(samples: list[float], bits: int | None) -> None:
    assert grid_bits(np.array([samples], np.float32)) == bits


@given(st.floats(-2, 2, width=32), st.sampled_from([16, 24]))
def test_the_nearest_point_of_a_grid_is_on_it(value: float, bits: int) -> None:
    found = on_grid(np.array([[value]], np.float32), bits)
    assert np.array_equal(on_grid(found, bits), found)
    step = 2.0 ** (1 - bits)
    assert abs(float(found[0, 0]) - min(max(value, -1.0), 1.0 - step)) <= step / 2


@pytest.mark.parametrize(
    ("suffix", "channels"), [(".ogg", 1), (".ogg", 2), (".mp3", 1), (".mp3", 2)]
)
def test_lossy_files_hold_the_sound(tmp_path: Path, suffix: str, channels: int) -> None:
    clip = tone(channels=channels)
    found = Audio.read(clip.save(tmp_path / f"clip{suffix}"))
    assert found.samples.shape == clip.samples.shape
    assert found.sample_rate_hz == RATE
    assert np.abs(found.samples - found.samples[:1]).max() < 0.01  # channels stay alike
    middle = found.samples[:, 2048:-2048]
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
    assert in_folder(tmp_path) == [f"clip{suffix}"]


def test_an_ogg_of_ten_seconds_needs_little_stack(tmp_path: Path) -> None:
    """On the usual 8 MiB it is 60 s that end the process; macOS threads have 512 KiB."""
    code = (
        "import sys, threading, numpy as np; from omni_rt.audio import Audio\n"
        "threading.stack_size(512 << 10)\n"
        "clip = Audio(np.zeros((1, 441_000)), 44_100)\n"
        "t = threading.Thread(target=clip.save, args=[sys.argv[1]]); t.start(); t.join()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "clip.ogg")], check=False, capture_output=True
    )
    assert done.returncode == 0


@pytest.mark.parametrize("channels", [0, 9])
def test_audio_has_one_to_eight_channels(channels: int) -> None:
    with pytest.raises(RequestError, match="1 to 8 channels"):
        Audio(np.zeros((channels, 4)), RATE)


@pytest.mark.parametrize("shape", [(), (4,), (1, 2, 4)])
def test_audio_has_two_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"\[channels, samples\]"):
        Audio(np.zeros(shape), RATE)


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_is_positive(rate: int) -> None:
    with pytest.raises(RequestError, match="sample rate"):
        Audio(np.zeros((1, 4)), rate)


@pytest.mark.parametrize("rate", [44_100.5, float("nan"), "44100", None, 2**40])
def test_a_rate_is_an_integer_that_files_can_hold(tmp_path: Path, rate: Any) -> None:
    with pytest.raises(RequestError):
        Audio(np.zeros((1, 4)), rate).save(tmp_path / "clip.wav")


def test_samples_become_float32_and_know_their_duration() -> None:
    clip = Audio(np.zeros((2, 22_050), np.float64), RATE)
    assert clip.samples.dtype == np.float32
    assert clip.duration_s == 0.5


def test_a_file_of_nine_channels_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nine.wav", np.zeros((10, 9)), RATE)
    with pytest.raises(RequestError, match=r"nine\.wav has 9 channels"):
        Audio.read(tmp_path / "nine.wav")


def test_a_file_longer_than_allowed_is_refused(tmp_path: Path) -> None:
    path = tone(samples=RATE).save(tmp_path / "clip.flac")
    assert Audio.read(path, max_duration_s=1.0).duration_s == 1.0
    with pytest.raises(RequestError, match=r"at most 0\.99 s"):
        Audio.read(path, max_duration_s=0.99)


@pytest.mark.parametrize("kind", [np.int16, np.int64, np.complex64, bool])
def test_samples_that_are_no_floats_are_refused(kind: type) -> None:
    with pytest.raises(RequestError, match="must be floats"):
        Audio(np.ones((1, 4), kind), RATE)


def test_a_missing_file_and_a_folder_are_no_audio(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(RequestError, match="no audio file at"):
            Audio.read(path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "txt", ""])
@pytest.mark.parametrize("content", [b"", b"RIFF", b"not audio at all" * 50, b"\0" * 999])
def test_a_file_that_is_no_audio_is_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="broken"):
        Audio.read(path)


def test_a_headerless_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.raw").write_bytes(b"\0" * 100)
    with pytest.raises(RequestError, match=r"clip\.raw"):
        Audio.read(tmp_path / "clip.raw")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("kept", [0, 10, 60, 500])
def test_a_truncated_file_is_read_in_part_or_refused(
    tmp_path: Path, suffix: str, kept: int
) -> None:
    path = tone().save(tmp_path / f"clip.{suffix}")
    path.write_bytes(path.read_bytes()[:kept])
    try:
        assert Audio.read(path).samples.shape[1] <= 8192
    except RequestError as error:
        assert "clip" in str(error)  # noqa: PT017  either outcome is right


@pytest.mark.parametrize("name", ["clip", "clip.m4a", "clip.", "wav", "clip.wav.txt"])
def test_another_suffix_is_refused_and_nothing_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"use one of \.wav, \.flac, \.ogg, \.mp3"):
        tone().save(tmp_path / name)
    assert in_folder(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no folder"):
        tone().save(tmp_path / "none" / "clip.wav")


def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot write .*clip\.mp3"):
        tone(channels=8).save(tmp_path / "clip.mp3")
    assert in_folder(tmp_path) == []


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tone(channels=1).save(tmp_path / "clip.mp3")
    before = path.read_bytes()
    with pytest.raises(RequestError):
        tone(rate_hz=123).save(path)
    assert path.read_bytes() == before
    assert in_folder(tmp_path) == ["clip.mp3"]


@pytest.mark.parametrize("name", ["folder.wav", "n" * 300 + ".wav"])
def test_a_name_that_cannot_be_written_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(RequestError, match="cannot write"):
        tone().save(tmp_path / name)
    assert in_folder(tmp_path) == ["folder.wav"]


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(RequestError, match="cannot write"):
        tone().save(tmp_path / "clip.wav")


def test_saving_replaces_what_was_there(tmp_path: Path) -> None:
    path = tone(samples=10).save(tmp_path / "clip.wav")
    assert tone(samples=20).save(str(path)) == path
    assert Audio.read(path).samples.shape == (2, 20)


def test_the_loudest_sample_of_a_normalised_clip_is_one() -> None:
    samples = np.array([[0.1, -0.25], [0.2, 0.0]], np.float32)
    assert np.array_equal(peak_normalised(samples), samples * 4)


@pytest.mark.parametrize("samples", [0, 5])
def test_silence_stays_silence(samples: int) -> None:
    silence = np.zeros((2, samples), np.float32)
    assert np.array_equal(peak_normalised(silence), silence)
