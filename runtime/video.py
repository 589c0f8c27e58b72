"""Video files and still images → the pictures that the models look at.

A file is decoded once, in order, and a picture is resized as it comes, so that memory is bounded
by what is handed out. Time 0 is the first frame's. Needs PyAV and Pillow: the extra `video`.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from omni_rt.decoding import (
    Decoded,
    average_rate,
    declared_s,
    decoded_frames,
    first_frame,
    frame_times,
    opened,
    still_picture,
    upright,
)
from omni_rt.errors import RequestError
from omni_rt.preprocess import frames as rules
from omni_rt.preprocess.resize import Pixels, bicubic, squashed

FrameRule = Literal["time_correct", "upstream_compat"]
Size = Callable[[int, int, int], tuple[int, int]]  # frames, height, width → height, width

SYNC_SIZE = 224
STILL_FRAMES = 4  # as many as the shortest video is understood from


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """What a file holds. A still image has one frame, no duration and a rate of 0."""

    width: int  # as shown, after rotation
    height: int
    fps: Fraction  # average
    duration_s: float
    has_audio: bool
    is_image: bool
    frames: int | None  # None if the container does not say, or contradicts its duration


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """The pictures of one stretch of video, of 10 s unless asked otherwise."""

    sync_frames: Pixels  # [250, 224, 224, 3], 25 per second
    slow_frames: Pixels  # [50, 224, 224, 3], 5 per second


def probe(path: str | Path) -> VideoInfo:
    """What a file holds, from its header and first frame. Raises RequestError if it is no video."""
    still = still_picture(path)
    if still is not None:
        height, width = still.shape[:2]
        fps, length, has_audio, frames = Fraction(0), Fraction(0), False, 1
    else:
        with opened(path) as (container, stream):
            height, width = upright(first_frame(path, stream)[1]).shape[:2]
            fps, declared = average_rate(stream), declared_s(container, stream)
            has_audio, frames = bool(container.streams.audio), stream.frames
        length = _measured_s(path, 1 / fps) if declared is None else declared
    hidden = abs(frames - length * fps) > 1.5  # an edit list shows only some
    return VideoInfo(
        width=width,
        height=height,
        fps=fps,
        duration_s=float(length),
        has_audio=has_audio,
        is_image=still is not None,
        frames=None if hidden or not frames else frames,
    )


def windows(
    path: str | Path,
    *,
    rule: FrameRule = "time_correct",
    window_s: int = 10,
    count: int | None = None,
    allow_damaged: bool = False,
    cancel: threading.Event | None = None,
) -> Iterator[Window]:
    """Window i begins at i · window_s; at the end of the file its last picture is repeated.

    `count` windows, or as many as there are seconds for: a further one needs 0.25 s of new footage.
    A still image is a constant video of `count` windows, or of one. Damaged frames show the one
    before if they are allowed. Raises RequestError as soon as something cannot be decoded.
    """
    _check_rule(rule)
    if window_s < 1 or (count is not None and count < 1):
        raise RequestError(f"windows last and count at least 1, got {window_s} s and {count}")
    return _windows(path, rule, window_s, count, allow_damaged, cancel)


def _windows(
    path: str | Path,
    rule: FrameRule,
    window_s: int,
    count: int | None,
    allow_damaged: bool,
    cancel: threading.Event | None,
) -> Iterator[Window]:
    still = still_picture(path)
    if still is not None:
        small = [squashed(still, SYNC_SIZE, SYNC_SIZE)] * window_s
        yield from repeat(_window(small * rules.SYNC_HZ, small * rules.SLOW_HZ), count or 1)
        return
    with opened(path) as (_, stream):
        fps = average_rate(stream)
        strided = partial(rules.upstream_windows, fps=fps)
        chosen = strided if rule == "upstream_compat" else rules.time_correct_windows
        with closing(decoded_frames(path, stream, allow_damaged, cancel)) as decoded:
            stream_s = _from_zero(decoded)
            for pair in chosen(stream_s, frame_s=1 / fps, window_s=window_s, count=count):
                yield _window(*pair)


def understanding_frames(
    path: str | Path,
    *,
    size: Size,
    most_frames: int = 768,
    rule: FrameRule = "time_correct",
    allow_damaged: bool = False,
    cancel: threading.Event | None = None,
) -> Pixels:
    """[n, h, w, 3]: about two frames a second, spread evenly over the whole video.

    n is even, 4 to `most_frames` (fewer if the file has fewer); a still image is given four times.
    `size(n, height, width)` says how large. "upstream_compat" spreads indices, "time_correct"
    times, which is the same at a constant rate. Raises RequestError.
    """
    _check_rule(rule)
    still = still_picture(path)
    if still is not None:
        return np.stack([bicubic(still, *size(STILL_FRAMES, *still.shape[:2]))] * STILL_FRAMES)
    times = frame_times(path, allow_damaged)
    with opened(path) as (_, stream):
        n = rules.understanding_count(len(times) / average_rate(stream), len(times), most_frames)
        exact = rule == "upstream_compat"
        chosen = rules.spread_indices(len(times), n) if exact else rules.nearest_indices(times, n)
        with closing(decoded_frames(path, stream, allow_damaged, cancel)) as decoded:
            return _gathered(decoded, [times[index] for index in chosen], size)


def _measured_s(path: str | Path, frame_s: Fraction) -> Fraction:
    times = frame_times(path, allow_damaged=True)
    return times[-1] - times[0] + frame_s


def _from_zero(
    decoded: Decoded,
) -> Iterator[tuple[Fraction, Callable[[], Pixels]]]:
    begin: Fraction | None = None
    for time, frame in decoded:
        begin = time if begin is None else begin
        yield time - begin, partial(_small, frame)


def _small(frame: Any) -> Pixels:
    return squashed(upright(frame), SYNC_SIZE, SYNC_SIZE)


def _window(sync: Sequence[Pixels], slow: Sequence[Pixels]) -> Window:
    return Window(sync_frames=np.stack(sync), slow_frames=np.stack(slow))


def _gathered(decoded: Decoded, wanted: list[Fraction], size: Size) -> Pixels:
    """For each wanted time, which ascend, the first frame at or after it; at the end the last."""
    out: Pixels | None = None
    done, frame = 0, None
    for time, frame in decoded:
        ready = bisect_right(wanted, time)
        if ready > done:
            out = _put(out, slice(done, ready), frame, len(wanted), size)
            done = ready
        if done == len(wanted):
            break
    if out is None or done < len(wanted):
        out = _put(out, slice(done, None), frame, len(wanted), size)
    return out


def _put(out: Pixels | None, at: slice, frame: Any, n: int, size: Size) -> Pixels:
    picture = upright(frame)
    if out is None:
        out = np.empty((n, *size(n, *picture.shape[:2]), 3), np.uint8)
    out[at] = bicubic(picture, *out.shape[1:3])
    return out


def _check_rule(rule: str) -> None:
    if rule not in get_args(FrameRule):
        raise RequestError(f"rule must be one of {', '.join(get_args(FrameRule))}, got {rule!r}")
