"""Videos made here, whose every frame says its number, seen through the decoder."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_rt import soundtrack, video
from omni_rt.audio import Audio
from omni_rt.errors import Cancelled, RequestError
from omni_rt.preprocess.frames import (
    nearest_indices,
    spread_indices,
    time_correct_indices,
    upstream_indices,
)

av = pytest.importorskip("av")
image = pytest.importorskip("PIL.Image")

NTSC = Fraction(30_000, 1001)
RULES: list[video.FrameRule] = ["time_correct", "upstream_compat"]


def numbered(index: int, *, height: int = 6, width: int = 8) -> np.ndarray:
    """A picture of one colour, which is the frame's number."""
    return np.full((height, width, 3), (index % 256, index // 256 * 16, 128), np.uint8)


def numbers(frames: np.ndarray) -> list[int]:
    """What `numbered` wrote, read from the middle of each frame [n, h, w, 3]."""
    middle = frames[:, frames.shape[1] // 2, frames.shape[2] // 2].astype(int)
    assert (middle[:, 2] == 128).all()
    return (middle[:, 0] + 256 * (middle[:, 1] // 16)).tolist()


def moving(index: int, *, height: int = 96, width: int = 128) -> np.ndarray:
    """Something that an encoder has to describe anew in each frame."""
    y, x = np.mgrid[:height, :width]
    slopes = [x * 2 + index * 5, y * 2 + index * 3, x + y + index * 7]
    return (np.stack(slopes, axis=-1) % 256).astype(np.uint8)


def film(
    path: Path,
    pictures: Sequence[np.ndarray],
    *,
    fps: Fraction | int = 25,
    times: Sequence[Fraction] | None = None,
    codec: str = "ffv1",
    pixels: str = "bgr0",
    options: dict[str, str] | None = None,
    sound: Audio | None = None,
    sound_at: Fraction = Fraction(0),
    muxer: dict[str, str] | None = None,
) -> Path:
    """Write a video; lossless unless another codec is asked for. `times` are of 1/600 s."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        track = container.add_stream(codec, rate=fps, options=options or {})
        track.height, track.width = pictures[0].shape[:2]
        track.pix_fmt = pixels
        if times is not None:
            track.time_base = track.codec_context.time_base = Fraction(1, 600)
        heard = None
        if sound is not None:
            heard = container.add_stream("pcm_s16le", rate=sound.sample_rate_hz, layout="mono")
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[index] * 600), Fraction(1, 600)
            container.mux(track.encode(frame))
        container.mux(track.encode())
        if heard is not None and sound is not None:
            block = sound.int16()[:1]
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate = sound.sample_rate_hz
            frame.time_base = Fraction(1, sound.sample_rate_hz)
            frame.pts = int(sound_at * sound.sample_rate_hz)
            container.mux(heard.encode(frame))
            container.mux(heard.encode())
    return path


def counting(path: Path, frames: int, **how: Any) -> Path:
    return film(path, [numbered(index) for index in range(frames)], **how)


def same_size(_: int, height: int, width: int) -> tuple[int, int]:
    return height, width


def seen(path: Path, **how: Any) -> list[tuple[list[int], list[int]]]:
    found = list(video.windows(path, **how))
    return [(numbers(window.sync_frames), numbers(window.slow_frames)) for window in found]


def overwritten(path: Path, *, at: float = 0.5, size: int = 1000) -> Path:
    """The file with noise in its middle."""
    data = bytearray(path.read_bytes())
    begin = int(len(data) * at)
    noise = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    data[begin : begin + size] = noise.tobytes()
    path.write_bytes(data)
    return path


def turned(path: Path, *, degrees: int) -> Path:
    """An .mp4 that asks to be shown turned clockwise, as phones write it."""
    matrix = {
        90: (0, 1, 0, -1, 0, 0),
        180: (-1, 0, 0, 0, -1, 0),
        270: (0, -1, 0, 1, 0, 0),
    }[degrees]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    words = np.array([*matrix[:6], 0, 0, 1], np.int64) * 0x10000
    words[8] = 0x40000000
    data[at : at + 36] = words.astype(">i4").tobytes()
    path.write_bytes(data)
    return path


# ---- windows


@pytest.mark.parametrize("fps", [24, 25, NTSC, 30, 50, 60])
@pytest.mark.parametrize("rule", RULES)
def test_each_slot_shows_the_frame_of_its_rule(
    tmp_path: Path, fps: Fraction | int, rule: video.FrameRule
) -> None:
    frames = round(Fraction(fps) * Fraction(5, 2))
    path = counting(tmp_path / "film.mov", frames, fps=fps, codec="png", pixels="rgb24")
    found = seen(path, rule=rule, window_s=2)
    assert len(found) == 2
    times = [index / Fraction(fps) for index in range(frames)]
    for number, pair in enumerate(found):
        for hz, slots in zip((25, 5), pair, strict=True):
            if rule == "time_correct":
                wanted = time_correct_indices(times, target_hz=hz, count=2 * hz, start=2 * number)
            else:
                wanted = upstream_indices(
                    fps=Fraction(fps),
                    frames_in_file=frames,
                    target_hz=hz,
                    seconds=2,
                    start_s=2 * number,
                )
            assert slots == wanted
    if rule == "time_correct":
        assert all(slow == sync[::5] for sync, slow in found)


def test_a_flash_is_seen_when_it_happens_whatever_the_rate_does(tmp_path: Path) -> None:
    """A screen recording: long stills, then bursts."""
    gaps = [Fraction(n, 600) for n in (10, 10, 300, 7, 13, 20, 24, 24, 200, 5, 5, 5, 90, 24, 30)]
    times = [sum(gaps[:i], Fraction(0)) for i in range(len(gaps))]
    path = counting(tmp_path / "film.mov", len(times), times=times, codec="png", pixels="rgb24")
    [(sync, slow)] = seen(path, window_s=2)
    for slot, index in enumerate(sync):
        later = [i for i, time in enumerate(times) if time >= Fraction(slot, 25)]
        assert index == (later[0] if later else len(times) - 1)
    assert slow == sync[::5]


@pytest.mark.parametrize("rule", RULES)
def test_a_longer_video_is_seen_in_windows_of_ten_seconds(
    tmp_path: Path, rule: video.FrameRule
) -> None:
    found = seen(counting(tmp_path / "film.mkv", 125, fps=5), rule=rule)
    assert [(len(sync), len(slow)) for sync, slow in found] == [(250, 50)] * 3
    if rule == "time_correct":
        assert [slow for _, slow in found] == [
            [min(index, 124) for index in range(50 * n, 50 * n + 50)] for n in range(3)
        ]


def test_only_as_many_windows_as_asked_for_are_decoded(tmp_path: Path) -> None:
    path = film(
        tmp_path / "film.mp4",
        [moving(index) for index in range(100)],
        codec="libx264",
        pixels="yuv420p",
        options={"g": "25"},
    )
    overwritten(path, at=0.8)
    assert len(list(video.windows(path, window_s=1, count=2))) == 2
    with pytest.raises(RequestError, match="damaged"):
        list(video.windows(path, window_s=1))


def test_more_windows_than_footage_repeat_the_last_picture(tmp_path: Path) -> None:
    path = counting(tmp_path / "film.mkv", 30)
    for rule in RULES:
        found = seen(path, rule=rule, window_s=1, count=3)
        assert found[1] == ([min(i, 29) for i in range(25, 50)], [25] + [29] * 4) or (
            rule == "upstream_compat" and found[1][1] == [25] * 5
        )
        assert found[2] == ([29] * 25, [29] * 5)


def test_windows_have_the_sizes_of_the_models(tmp_path: Path) -> None:
    [window] = video.windows(counting(tmp_path / "film.mkv", 3))
    assert window.sync_frames.shape == (250, 224, 224, 3)
    assert window.slow_frames.shape == (50, 224, 224, 3)
    assert window.sync_frames.dtype == window.slow_frames.dtype == np.uint8


def test_the_first_frame_is_time_0(tmp_path: Path) -> None:
    times = [Fraction(3, 2) + Fraction(index, 25) for index in range(50)]
    path = counting(tmp_path / "film.mkv", 50, times=times)
    assert seen(path, window_s=2)[0][0] == list(range(50))


def test_frames_without_times_follow_the_average_rate(tmp_path: Path) -> None:
    grey = [np.full((16, 16, 3), 5 * index, np.uint8) for index in range(50)]
    path = film(
        tmp_path / "film.h264", grey, codec="libx264", pixels="yuv420p", options={"qp": "0"}
    )
    [window] = video.windows(path, window_s=2)
    found = np.rint(window.sync_frames[:, 0, 0, 0] / 5).astype(int)
    assert found.tolist() == list(range(50))
    assert video.probe(path).duration_s == 2.0
    assert len(video.understanding_frames(path, size=same_size)) == 4


@pytest.mark.parametrize(
    "how", [{"rule": "other"}, {"count": 0}, {"window_s": 0}], ids=["rule", "count", "window"]
)
def test_what_windows_cannot_be_is_refused_at_once(how: Any) -> None:
    with pytest.raises(RequestError):
        video.windows("none.mp4", **how)


# ---- pictures


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_picture_is_upright(tmp_path: Path, degrees: int) -> None:
    corner = np.zeros((32, 48, 3), np.uint8)
    corner[:12, :12] = 255  # top left
    path = film(tmp_path / "film.mp4", [corner] * 4, codec="libx264", pixels="yuv420p")
    turned(path, degrees=degrees)
    upright = np.rot90(corner, -degrees // 90)
    info = video.probe(path)
    assert (info.height, info.width) == upright.shape[:2]
    found = video.understanding_frames(path, size=same_size)
    assert np.abs(found[0].astype(int) - upright).mean() < 8
    small = next(iter(video.windows(path))).sync_frames[0]
    ys, xs = np.nonzero(small[..., 0] > 128)
    assert (ys.mean() < 112, xs.mean() < 112) == {
        90: (True, False),
        180: (False, False),
        270: (False, True),
    }[degrees]


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3000, 4000)])
def test_any_size_is_seen(tmp_path: Path, shape: tuple[int, int]) -> None:
    height, width = shape
    path = film(tmp_path / "film.mkv", [numbered(200, height=height, width=width)] * 2)
    info = video.probe(path)
    assert (info.height, info.width) == shape
    assert seen(path, window_s=1) == [([200] * 25, [200] * 5)]
    found = video.understanding_frames(path, size=lambda *_: (28, 56))
    assert found.shape == (2, 28, 56, 3)
    assert numbers(found) == [200] * 2


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "gif", "tiff", "jpg"])
def test_a_still_image_is_a_constant_video(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"still.{suffix}"
    exact = {"lossless": True} if suffix == "webp" else {}
    image.fromarray(np.full((40, 60, 3), 100, np.uint8)).save(path, **exact)
    info = video.probe(path)
    assert info == video.VideoInfo(
        width=60,
        height=40,
        fps=Fraction(0),
        duration_s=0.0,
        has_audio=False,
        is_image=True,
        frames=1,
    )
    for count in (None, 3):
        found = list(video.windows(path, count=count))
        assert len(found) == (count or 1)
        assert all((w.sync_frames == 100).all() and len(w.slow_frames) == 50 for w in found)
    frames = video.understanding_frames(path, size=lambda n, h, w: (h // n, w // n))
    assert frames.shape == (4, 10, 15, 3)
    assert (frames == 100).all()
    assert soundtrack.sound(path) is None


def test_a_photograph_is_upright(tmp_path: Path) -> None:
    exif = image.Exif()
    exif[0x0112] = 6  # turned clockwise
    image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "photo.jpg", exif=exif)
    info = video.probe(tmp_path / "photo.jpg")
    assert (info.height, info.width) == (60, 40)


def test_a_picture_of_16_bits_is_not_white(tmp_path: Path) -> None:
    image.fromarray(np.full((4, 4), 100 << 8, np.uint16)).save(tmp_path / "deep.png")
    [window] = video.windows(tmp_path / "deep.png")
    assert (window.sync_frames == 100).all()


def test_an_animation_is_a_video(tmp_path: Path) -> None:
    pages = [image.fromarray(np.full((8, 8, 3), 60 * index, np.uint8)) for index in range(4)]
    pages[0].save(tmp_path / "film.gif", save_all=True, append_images=pages[1:], duration=200)
    info = video.probe(tmp_path / "film.gif")
    assert not info.is_image
    [window] = video.windows(tmp_path / "film.gif", window_s=1)
    assert np.rint(window.slow_frames[:, 0, 0, 0] / 60).tolist() == [0, 1, 2, 3, 3]


# ---- understanding


@pytest.mark.parametrize("fps", [25, NTSC, 60])
@pytest.mark.parametrize("rule", RULES)
def test_at_a_constant_rate_both_rules_understand_the_same_frames(
    tmp_path: Path, fps: Fraction | int, rule: video.FrameRule
) -> None:
    frames = round(Fraction(fps) * 4)
    path = counting(tmp_path / "film.mov", frames, fps=fps, codec="png", pixels="rgb24")
    found = video.understanding_frames(path, size=same_size, rule=rule)
    count = int(frames / Fraction(fps) * 2) // 2 * 2
    assert numbers(found) == spread_indices(frames, count)


def test_understood_frames_are_spread_over_time(tmp_path: Path) -> None:
    times = [Fraction(index, 50) for index in range(50)] + [Fraction(n) for n in range(1, 5)]
    path = counting(tmp_path / "film.mov", len(times), times=times, codec="png", pixels="rgb24")
    found = numbers(video.understanding_frames(path, size=same_size))
    assert found == nearest_indices(times, len(found))
    assert found[-1] == len(times) - 1
    by_index = numbers(video.understanding_frames(path, size=same_size, rule="upstream_compat"))
    assert by_index == spread_indices(len(times), len(by_index))


def test_the_caller_says_how_large_and_how_many(tmp_path: Path) -> None:
    asked = []

    def size(n: int, height: int, width: int) -> tuple[int, int]:
        asked.append((n, height, width))
        return 28, 56

    path = counting(tmp_path / "film.mkv", 100)
    found = video.understanding_frames(path, size=size, most_frames=7)
    assert found.shape == (6, 28, 56, 3)
    assert asked == [(6, 6, 8)]


# ---- what is in a file


def test_probe_reads_the_header(tmp_path: Path) -> None:
    tone = Audio(np.zeros((1, 8000), np.float32), 8000)
    path = counting(tmp_path / "film.mov", 30, fps=NTSC, codec="png", pixels="rgb24", sound=tone)
    info = video.probe(path)
    assert (info.width, info.height, info.fps, info.frames) == (8, 6, NTSC, 30)
    assert info.duration_s == pytest.approx(1.001)
    assert info.has_audio
    assert not info.is_image
    assert not video.probe(counting(tmp_path / "silent.mkv", 3)).has_audio


def test_the_real_clip(golden: Path) -> None:
    """It has an edit list: 431 frames in the file, 298 of them to be shown."""
    info = video.probe(golden / "media" / "example.mp4")
    assert (info.width, info.height, info.fps) == (1280, 720, NTSC)
    assert info.duration_s == pytest.approx(9.944)
    assert info.frames is None
    sound = soundtrack.sound(golden / "media" / "example.mp4")
    assert sound is not None
    assert sound.samples.shape[0] == 2
    assert sound.duration_s == pytest.approx(10.03, abs=0.02)
    there = Audio.read(golden / "media" / "example.wav").samples
    length = min(there.shape[1], sound.samples.shape[1])
    assert np.abs(sound.samples[:, :length] - there[:, :length]).max() < 1e-4


@pytest.mark.slow
def test_the_real_clip_is_seen(golden: Path) -> None:
    [window] = video.windows(golden / "media" / "example.mp4")
    assert np.array_equal(window.slow_frames, window.sync_frames[::5])
    both = [
        video.understanding_frames(
            golden / "media" / "example.mp4", rule=rule, size=lambda *_: (56, 84)
        )
        for rule in RULES
    ]
    assert both[0].shape == (18, 56, 84, 3)
    assert np.array_equal(*both)


# ---- sound


@pytest.mark.parametrize("start", [Fraction(0), Fraction(2, 5)])
@pytest.mark.parametrize("late", [Fraction(0), Fraction(1, 5), Fraction(3, 5)])
def test_sound_begins_with_the_picture(tmp_path: Path, start: Fraction, late: Fraction) -> None:
    click = np.zeros((1, 8000), np.float32)
    click[0, 4000] = 0.5
    times = [start + Fraction(index, 25) for index in range(50)]
    path = film(
        tmp_path / "film.mkv",
        [numbered(index) for index in range(50)],
        times=times,
        sound=Audio(click, 8000),
        sound_at=late,
    )
    found = soundtrack.sound(path)
    assert found is not None
    assert found.sample_rate_hz == 8000
    at = int(np.abs(found.samples[0]).argmax())
    assert at == pytest.approx(4000 + float(late - start) * 8000, abs=10)  # .mkv counts in ms
    assert found.samples[0, at] == pytest.approx(0.5, abs=1e-4)
    assert found.samples.shape[1] == pytest.approx(8000 + float(late - start) * 8000, abs=10)


def test_sound_that_lasts_too_long_is_refused(tmp_path: Path) -> None:
    tone = Audio(np.zeros((1, 100), np.float32), 8000)
    path = counting(tmp_path / "film.mov", 3, codec="png", pixels="rgb24", sound=tone)
    late = counting(
        tmp_path / "late.mov",
        3,
        codec="png",
        pixels="rgb24",
        sound=tone,
        sound_at=Fraction(601),
    )
    assert soundtrack.sound(path) is not None
    check_refused(soundtrack.sound, late, "longer than 600 s")


def test_a_silent_film_has_no_sound(tmp_path: Path) -> None:
    assert soundtrack.sound(counting(tmp_path / "film.mkv", 3)) is None


# ---- what is wrong with a file


def look(path: Path, **how: Any) -> None:
    list(video.windows(path, window_s=1, **how))


def understand(path: Path, **how: Any) -> None:
    video.understanding_frames(path, size=same_size, **how)


USES = [look, understand, video.probe, soundtrack.sound]


def check_refused(use: Any, path: Path, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        use(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("use", USES)
def test_a_missing_file_is_named(tmp_path: Path, use: Any) -> None:
    check_refused(use, tmp_path / "none.mp4", "no video file at")
    check_refused(use, tmp_path, "no video file at")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", ["film.mp4", "film.txt", "film.png", "film"])
def test_what_is_no_video_is_named(tmp_path: Path, use: Any, name: str) -> None:
    for content in (b"", b"hello, world\n" * 100, b"\x89PNG\r\n\x1a\nwhat?" * 9, b"\0" * 4096):
        (tmp_path / name).write_bytes(content)
        check_refused(use, tmp_path / name, "not a video|text|decoded|no picture|no frames")


@pytest.mark.parametrize("use", USES)
def test_a_recording_holds_no_picture(tmp_path: Path, use: Any) -> None:
    path = Audio(np.zeros((1, 8000), np.float32), 8000).save(tmp_path / "voice.wav")
    check_refused(use, path, "holds no picture")


@pytest.mark.parametrize("use", USES)
def test_a_video_of_more_than_ten_minutes_is_refused(tmp_path: Path, use: Any) -> None:
    times = [Fraction(0), Fraction(601)]
    path = counting(tmp_path / "film.mkv", 2, times=times)
    check_refused(use, path, "longer than 600 s")


def test_a_long_video_that_hides_its_length_is_refused(tmp_path: Path) -> None:
    grey = [np.full((16, 16, 3), 99, np.uint8)] * 603
    path = film(tmp_path / "film.h264", grey, fps=1, codec="libx264", pixels="yuv420p")
    check_refused(understand, path, "longer than 600 s")


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("use", [look, understand])
def test_damage_is_an_error_unless_allowed(
    tmp_path: Path, codec: str, use: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = [moving(index) for index in range(60)]
    options = {"g": "12"}
    path = film(tmp_path / "film.mp4", pictures, codec=codec, pixels="yuv420p", options=options)
    use(path)  # whole, it is fine
    overwritten(path)
    check_refused(use, path, "damaged about .* s in")
    with caplog.at_level(logging.WARNING, logger="omni_rt"):
        use(path, allow_damaged=True)
    assert len([r for r in caplog.records if "damaged" in r.getMessage()]) == 1


@pytest.mark.parametrize("rule", RULES)
def test_allowed_damage_leaves_the_rest_as_it_is(tmp_path: Path, rule: video.FrameRule) -> None:
    pictures = [moving(index) for index in range(75)]
    options = {"g": "5"}
    path = film(tmp_path / "film.mp4", pictures, codec="libx264", pixels="yuv420p", options=options)
    whole = np.concatenate([w.sync_frames for w in video.windows(path, window_s=1)])
    overwritten(path, size=200)
    rest = np.concatenate(
        [w.sync_frames for w in video.windows(path, rule=rule, window_s=1, allow_damaged=True)]
    )
    assert rest.shape == whole.shape
    assert (rest.std(axis=(1, 2, 3)) > 20).all()
    assert np.array_equal(rest[:25], whole[:25])
    if rule == "time_correct":
        assert np.array_equal(rest[55:], whole[55:])


@pytest.mark.parametrize("sounding", [False, True])
def test_a_file_that_ends_early_is_damaged_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sounding: bool
) -> None:
    """Also where the header tells only how long all tracks are, as an .mkv's does."""
    sound = Audio(np.zeros((1, 4 * 8000), np.float32), 8000) if sounding else None
    path = counting(tmp_path / "film.mkv", 100, options={"g": "1"}, sound=sound)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(RequestError, match=r"damaged about \d\.\d s in"):
        seen(path, window_s=2)
    if sounding:  # where the picture ends depends on how the tracks are interleaved
        return
    with caplog.at_level(logging.WARNING, logger="omni_rt"):
        found = list(video.windows(path, window_s=2, allow_damaged=True))
    assert numbers(found[0].sync_frames) == list(range(50))
    assert "film.mkv is damaged about 2." in caplog.text


def test_longer_sound_does_not_make_a_picture_longer(tmp_path: Path) -> None:
    sound = Audio(np.zeros((1, 5 * 8000), np.float32), 8000)
    path = counting(tmp_path / "film.mkv", 50, sound=sound)
    assert video.probe(path).duration_s == pytest.approx(2.0, abs=0.05)
    assert len(list(video.windows(path, window_s=1))) == 2


def test_a_last_picture_that_stays_is_no_damage(tmp_path: Path) -> None:
    """The header counts how long the last frame is shown."""
    import av

    path = tmp_path / "slides.mp4"
    with av.open(str(path), "w") as container:
        track = container.add_stream("mpeg4", rate=25)
        track.width = track.height = 32
        track.codec_context.time_base = Fraction(1, 25)
        for index, shown_at in enumerate((0, 25, 50)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 80 * index, np.uint8), "rgb24")
            frame.pts, frame.duration = shown_at, 75
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    assert len(list(video.windows(path, window_s=1))) >= 2


def test_decoding_can_be_cancelled(tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    path = counting(tmp_path / "film.mkv", 10)
    with pytest.raises(Cancelled):
        next(video.windows(path, cancel=cancel))
    with pytest.raises(Cancelled):
        video.understanding_frames(path, size=lambda *_: (28, 28), cancel=cancel)


def test_a_file_without_its_index_is_refused(tmp_path: Path) -> None:
    path = counting(tmp_path / "film.mov", 50, codec="png", pixels="rgb24")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov")])
    check_refused(look, path, "decoded")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("library", ["av", "PIL"])
def test_without_the_libraries_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Any, library: str
) -> None:
    path = counting(tmp_path / "film.mkv", 3)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(RequestError, match=r"PyAV and Pillow: pip install 'omni_rt\[video\]'"):
        use(path)
