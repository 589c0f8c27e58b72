"""Other sound for a video: its picture is copied, not made anew."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_rt import mux, video
from omni_rt.audio import Audio
from omni_rt.decoding import average_rate
from omni_rt.errors import RequestError
from omni_rt.soundtrack import sound
from tests.runtime.test_video import counting, film, moving, turned

av = pytest.importorskip("av")
pytest.importorskip("PIL.Image")

CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx"}
SUFFIXES = sorted(CODECS)


def tone(seconds: float, *, channels: int = 2, rate_hz: int = 44_100) -> Audio:
    """A tone of 440 Hz with a click-free start, half as loud as can be."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    return Audio(np.tile(np.sin(2 * np.pi * 440 * time) / 2, (channels, 1)), rate_hz)


def clip(folder: Path, suffix: str, *, frames: int = 50, **how: Any) -> Path:
    pictures = [moving(index) for index in range(frames)]
    return film(folder / f"film{suffix}", pictures, codec=CODECS[suffix], pixels="yuv420p", **how)


def picture_packets(path: Path) -> list[tuple[Fraction, bytes]]:
    """Times since the first frame, rounded to ms, and bytes."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [(p.pts, bytes(p)) for p in container.demux(stream) if p.size]
        first = min(pts for pts, _ in packets)
        return [(round((pts - first) * stream.time_base * 1000), data) for pts, data in packets]


def lengths_s(path: Path) -> Iterator[float]:
    """How long the picture and the sound last, as decoded."""
    with av.open(str(path)) as container:
        for kind in ("video", "audio"):
            container.seek(0)
            stream = getattr(container.streams, kind)[0]
            frames = list(container.decode(stream))
            last = frames[-1]
            length = (
                last.samples / last.sample_rate if kind == "audio" else 1 / average_rate(stream)
            )
            yield float(last.time + length)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_picture_is_copied_and_the_sound_is_there(tmp_path: Path, suffix: str) -> None:
    path, given = clip(tmp_path, suffix), tone(2.0)
    out = mux.with_sound(path, given, tmp_path / f"out{suffix}")
    assert out == tmp_path / f"out{suffix}"
    assert picture_packets(out) == picture_packets(path)
    with av.open(str(out)) as container:
        assert [s.type for s in container.streams] == ["video", "audio"]
        assert container.streams.audio[0].codec_context.name in ("aac", "opus", "libopus")
        first = next(container.decode(container.streams.video[0]))
        assert first.time == 0
    picture_s, sound_s = lengths_s(out)
    assert picture_s == pytest.approx(2.0, abs=0.01)
    assert sound_s == pytest.approx(2.0, abs=0.1)
    heard = sound(out)
    assert heard is not None
    begin, end = int(0.2 * heard.sample_rate_hz), int(1.8 * heard.sample_rate_hz)
    ours = tone(2.0, rate_hz=heard.sample_rate_hz).samples
    difference = heard.samples[:, begin:end] - ours[:, begin:end]
    # .mkv counts in ms: half a ms of 440 Hz is a phase of 1.4; lossy codecs add little
    assert np.sqrt((difference**2).mean()) < (0.5 if suffix in (".mkv", ".webm") else 0.03)
    assert np.sqrt((heard.samples[:, begin:end] ** 2).mean()) == pytest.approx(0.354, rel=0.05)
    assert names(tmp_path) == sorted([path.name, out.name])


@pytest.mark.parametrize(
    ("before", "after"), [(".mkv", ".mp4"), (".mp4", ".mkv"), (".mov", ".mp4")]
)
def test_another_container_holds_the_same_picture(tmp_path: Path, before: str, after: str) -> None:
    path = clip(tmp_path, before)
    out = mux.with_sound(path, tone(2.0), tmp_path / f"out{after}")
    assert picture_packets(out) == picture_packets(path)
    seen = [next(video.windows(p, window_s=1)).sync_frames for p in (path, out)]
    assert np.array_equal(*seen)


def test_both_begin_at_0_where_the_source_did_not(tmp_path: Path) -> None:
    times = [Fraction(3, 2) + Fraction(index, 25) for index in range(50)]
    path = clip(tmp_path, ".mkv", times=times)
    out = mux.with_sound(path, tone(2.0), tmp_path / "out.mp4")
    picture_s, sound_s = lengths_s(out)
    assert picture_s == pytest.approx(2.0, abs=0.01)
    assert sound_s == pytest.approx(2.0, abs=0.1)


def test_the_old_sound_is_gone(tmp_path: Path) -> None:
    path = counting(tmp_path / "film.mkv", 50, sound=tone(2.0, channels=1, rate_hz=8000))
    out = mux.with_sound(path, tone(2.0), tmp_path / "out.mkv")
    with av.open(str(out)) as container:
        assert len(container.streams.audio) == 1
        assert container.streams.audio[0].rate == 44_100


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_turned_picture_stays_turned(tmp_path: Path, suffix: str) -> None:
    path = turned(clip(tmp_path, ".mp4", frames=10), degrees=90)
    out = mux.with_sound(path, tone(0.4), tmp_path / f"out{suffix}")
    there, here = video.probe(path), video.probe(out)
    assert (here.width, here.height) == (there.width, there.height) == (96, 128)


@pytest.mark.parametrize(
    ("given_s", "wanted_s"), [(1.0, 1.0), (2.0, 2.0), (2.05, 2.05), (5.0, 2.0)]
)
def test_only_sound_that_is_longer_is_cut(tmp_path: Path, given_s: float, wanted_s: float) -> None:
    out = mux.with_sound(clip(tmp_path, ".mp4"), tone(given_s), tmp_path / "out.mp4")
    picture_s, sound_s = lengths_s(out)
    assert picture_s == pytest.approx(2.0, abs=0.01)
    assert sound_s == pytest.approx(wanted_s, abs=0.03)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize(("channels", "rate_hz"), [(1, 16_000), (2, 12_345), (1, 48_000)])
def test_any_rate_is_taken(tmp_path: Path, suffix: str, channels: int, rate_hz: int) -> None:
    given = tone(2.0, channels=channels, rate_hz=rate_hz)
    heard = sound(mux.with_sound(clip(tmp_path, suffix), given, tmp_path / f"out{suffix}"))
    assert heard is not None
    assert len(heard.samples) == channels
    assert heard.duration_s == pytest.approx(2.0, abs=0.1)


def test_the_real_clip_keeps_what_is_shown_of_it(golden: Path, tmp_path: Path) -> None:
    path = golden / "media" / "example.mp4"
    out = mux.with_sound(path, tone(9.944), tmp_path / "out.mp4")
    assert picture_packets(out) == picture_packets(path)
    assert video.probe(out).duration_s == pytest.approx(9.944, abs=0.01)
    with pytest.raises(RequestError, match=r"hides its first frames.*use \.mp4"):
        mux.with_sound(path, tone(9.944), tmp_path / "out.mkv")


@pytest.mark.parametrize(
    ("source", "suffix"), [(".mp4", ".webm"), (".webm", ".mov"), (".webm", ".mp4")]
)
def test_a_picture_that_does_not_fit_is_refused(tmp_path: Path, source: str, suffix: str) -> None:
    path = clip(tmp_path, source, frames=5)
    with pytest.raises(RequestError, match=rf"cannot go into \{suffix}.*write \.mkv"):
        mux.with_sound(path, tone(0.2), tmp_path / f"out{suffix}")
    assert names(tmp_path) == [path.name]


def test_a_still_image_has_no_picture_to_copy(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "still.png")
    with pytest.raises(RequestError, match=r"no moving picture to copy; write a \.wav"):
        mux.with_sound(tmp_path / "still.png", tone(1.0), tmp_path / "out.mp4")


def test_a_picture_without_times_is_refused(tmp_path: Path) -> None:
    grey = [np.full((16, 16, 3), 9, np.uint8)] * 5
    path = film(tmp_path / "film.h264", grey, codec="libx264", pixels="yuv420p")
    with pytest.raises(RequestError, match="holds no times"):
        mux.with_sound(path, tone(0.2), tmp_path / "out.mp4")
    assert names(tmp_path) == ["film.h264"]


@pytest.mark.parametrize(("channels", "samples"), [(3, 100), (2, 0)])
def test_sound_that_cannot_be_encoded_is_refused(
    tmp_path: Path, channels: int, samples: int
) -> None:
    given = Audio(np.zeros((channels, samples), np.float32), 44_100)
    with pytest.raises(RequestError, match="1 or 2 channels"):
        mux.with_sound(clip(tmp_path, ".mp4", frames=2), given, tmp_path / "out.mp4")


@pytest.mark.parametrize("name", ["out", "out.avi", "out.wav", "mp4"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"use one of \.mp4, \.mov, \.mkv, \.webm"):
        mux.check_video_target(tmp_path / name)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no folder"):
        mux.check_video_target(tmp_path / "none" / "out.mp4")
    assert mux.check_video_target(tmp_path / "out.MP4") == (tmp_path / "out.MP4", "aac")


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path, ".mp4", frames=25)
    (tmp_path / "out.mp4").write_bytes(b"what was there")

    def broken(*_: object) -> Iterator[Any]:
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(mux, "_encoded", broken)
    with pytest.raises(RequestError, match=r"cannot write .*out\.mp4.*No space"):
        mux.with_sound(path, tone(1.0), tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"what was there"
    assert names(tmp_path) == ["film.mp4", "out.mp4"]


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = clip(tmp_path, ".mp4", frames=2)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(RequestError, match="cannot write"):
        mux.with_sound(path, tone(1.0), tmp_path / "out.mp4")


def test_the_video_itself_can_be_replaced(tmp_path: Path) -> None:
    path = clip(tmp_path, ".mp4")
    before = picture_packets(path)
    assert mux.with_sound(path, tone(2.0), path) == path
    assert picture_packets(path) == before
    assert video.probe(path).has_audio
