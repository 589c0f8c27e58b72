"""Video files and still images → the pictures that the models look at, and the video's sound.

A file is decoded once, in order, and a picture is resized as it comes, so that memory is bounded
by what is handed out. Time 0 is the first frame's. Needs PyAV and Pillow: the extra `video`.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from omni_rt.audio import Audio, Samples
from omni_rt.errors import RequestError
from omni_rt.preprocess import frames as rules
from omni_rt.preprocess.resize import NEEDED, Pixels, bicubic, pillow, squashed

FrameRule = Literal["time_correct", "upstream_compat"]
Size = Callable[[int, int, int], tuple[int, int]]  # frames, height, width → height, width

_Decoded = Generator[tuple[Fraction, Any], None, None]  # times as the file has them, frames

LONGEST_S = 600
SYNC_SIZE = 224
STILL_FRAMES = 4  # as many as the shortest video is understood from

_log = logging.getLogger("omni_rt")
_STILLS = frozenset({"PNG", "JPEG", "MPO", "BMP", "WEBP", "TIFF", "GIF", "PPM", "AVIF", "TGA"})
_UNSAID_S = Fraction(1, 2)  # a picture that ends earlier than its header says by this is reported
_GAP_S = Fraction(1, 10)  # less is the rounding of time stamps


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
    still = _still(path)
    if still is not None:
        height, width = still.shape[:2]
        fps, length, has_audio, frames = Fraction(0), Fraction(0), False, 1
    else:
        with opened(path) as (container, stream):
            height, width = _upright(_first(path, stream)[1]).shape[:2]
            fps, declared = _rate(stream), declared_s(container, stream)
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
) -> Iterator[Window]:
    """Window i begins at i · window_s; at the end of the file its last picture is repeated.

    `count` windows, or as many as there are seconds for: a further one needs 0.25 s of new footage.
    A still image is a constant video of `count` windows, or of one. Damaged frames show the one
    before if they are allowed. Raises RequestError as soon as something cannot be decoded.
    """
    _check_rule(rule)
    if window_s < 1 or (count is not None and count < 1):
        raise RequestError(f"windows last and count at least 1, got {window_s} s and {count}")
    return _windows(path, rule, window_s, count, allow_damaged)


def _windows(
    path: str | Path, rule: FrameRule, window_s: int, count: int | None, allow_damaged: bool
) -> Iterator[Window]:
    still = _still(path)
    if still is not None:
        small = [squashed(still, SYNC_SIZE, SYNC_SIZE)] * window_s
        yield from repeat(_window(small * rules.SYNC_HZ, small * rules.SLOW_HZ), count or 1)
        return
    with opened(path) as (_, stream):
        fps = _rate(stream)
        strided = partial(rules.upstream_windows, fps=fps)
        chosen = strided if rule == "upstream_compat" else rules.time_correct_windows
        with closing(_decoded(path, stream, allow_damaged)) as decoded:
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
) -> Pixels:
    """[n, h, w, 3]: about two frames a second, spread evenly over the whole video.

    n is even, 4 to `most_frames` (fewer if the file has fewer); a still image is given four times.
    `size(n, height, width)` says how large. "upstream_compat" spreads indices, "time_correct"
    times, which is the same at a constant rate. Raises RequestError.
    """
    _check_rule(rule)
    still = _still(path)
    if still is not None:
        return np.stack([bicubic(still, *size(STILL_FRAMES, *still.shape[:2]))] * STILL_FRAMES)
    times = _times(path, allow_damaged)
    with opened(path) as (_, stream):
        n = rules.understanding_count(len(times) / _rate(stream), len(times), most_frames)
        exact = rule == "upstream_compat"
        chosen = rules.spread_indices(len(times), n) if exact else rules.nearest_indices(times, n)
        with closing(_decoded(path, stream, allow_damaged)) as decoded:
            return _gathered(decoded, [times[index] for index in chosen], size)


def sound(path: str | Path, *, allow_damaged: bool = False) -> Audio | None:
    """The sound track at its own rate from the first frame's time on; None if there is none.

    What precedes the picture is dropped; a late start and gaps are silence. Raises RequestError
    for one that cannot be decoded or lasts longer than 600 s.
    """
    if _still(path) is not None:
        return None
    with opened(path) as (container, stream):
        if not container.streams.audio:
            return None
        begin = _first(path, stream)[0]
    with opened(path) as (container, _):
        track = container.streams.audio[0]
        rate = int(track.rate)
        samples = _placed(path, _heard(path, track, allow_damaged), begin, rate)
    if samples is None or samples.shape[1] == 0:
        return None
    return Audio(samples, rate, {"file": Path(path).name})


# ---- files


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its first stream of pictures, set to report damage.

    One thread decodes: with several, FFmpeg forgets to say which frames are broken.
    Raises RequestError if it is not a video, holds no picture, or is too long; and for what FFmpeg
    says meanwhile.
    """
    av = load_av()
    if not Path(path).is_file():
        raise RequestError(f"no video file at {path}")
    try:
        # "file:", lest a colon in a name be a protocol
        with av.open(f"file:{path}", metadata_errors="ignore") as container:
            cover = av.stream.Disposition.attached_pic
            pictures = [s for s in container.streams.video if not s.disposition & cover]
            if container.format.name == "tty":  # FFmpeg reads any .txt as a film of a terminal
                raise RequestError(f"{path} is text, not a video")
            if container.format.name.endswith(("_pipe", "image2")):  # and Pillow cannot read it
                raise RequestError(f"{path} is a picture that cannot be decoded")
            if not pictures or pictures[0].codec_context is None:
                raise RequestError(f"{path} holds no picture that can be decoded")
            if (declared_s(container, pictures[0]) or 0) > LONGEST_S:
                raise _too_long(path)
            pictures[0].codec_context.options = {"err_detect": "explode"}
            yield container, pictures[0]
    except av.error.FFmpegError as error:
        raise RequestError(
            f"{path} is not a video that can be decoded: {error.strerror}"
        ) from error


def load_av() -> Any:
    """PyAV. Raises RequestError naming the extra if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise RequestError(NEEDED) from error
    return av


def _still(path: str | Path) -> Pixels | None:
    """The upright picture of a still image; None for everything else."""
    image = pillow()
    if not Path(path).is_file():
        raise RequestError(f"no video file at {path}")
    try:
        with image.open(path) as picture:
            moving = getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO"
            if picture.format not in _STILLS or moving:
                return None
            if picture.mode.startswith("I;16"):
                picture = picture.point(lambda level: level / 256).convert("L")
            from PIL import ImageOps

            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"), np.uint8)
    except image.UnidentifiedImageError:
        return None
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise RequestError(f"{path} is a picture that cannot be decoded: {error}") from error


# ---- frames


@dataclass(slots=True, kw_only=True)
class _Damage:
    """What to do about what cannot be decoded: an error, or one warning."""

    path: str | Path
    allowed: bool
    told: bool = False

    def found(self, at_s: Fraction | float) -> None:
        where = f"{self.path} is damaged about {float(at_s):.1f} s in"
        if not self.allowed:
            raise RequestError(
                f"{where}: repair it, or pass allow_damaged=True to go on regardless"
            )
        if not self.told:
            _log.warning("%s; damaged frames show the one before", where)
            self.told = True


def _decoded(path: str | Path, stream: Any, allow_damaged: bool) -> _Decoded:
    """PyAV's frames and their times as the file has them; without any, as the average rate says.

    Raises RequestError for damage, for too many, and for none.
    """
    damage = _Damage(path=path, allowed=allow_damaged)
    frame_s = 1 / _rate(stream)
    begin: Fraction | None = None
    time, good = Fraction(0), None
    for frame in _frames(stream, damage):
        time = (
            (Fraction(0) if begin is None else time + frame_s)
            if frame.pts is None
            else _time(frame)
        )
        begin = time if begin is None else begin
        if frame.is_corrupt:
            damage.found(time - begin)
            frame = good
        if time - begin > LONGEST_S:
            raise _too_long(path)
        if frame is not None:
            good = frame
            yield time, frame
    if begin is None or good is None:
        raise RequestError(f"{path} holds no frames that can be decoded")
    _tell_of_loss(path, stream, time + frame_s, begin)


def _tell_of_loss(path: str | Path, stream: Any, end: Fraction, begin: Fraction) -> None:
    """Warn of a file that was cut off: there is less of it than its header says."""
    if stream.duration is None and stream.container.streams.audio:
        return  # the duration may be the sound's
    declared = declared_s(stream.container, stream) or Fraction(0)
    if declared - max(end, end - begin) > _UNSAID_S:  # some count from 0, some from the first frame
        _log.warning("%s: the picture ends at %.1f s of %.1f s", path, end - begin, declared)


def _frames(track: Any, damage: _Damage) -> Iterator[Any]:
    """What a track decodes to. A part that cannot be read is reported; reading goes on after it."""
    ffmpeg_error = load_av().error.FFmpegError
    packets = track.container.demux(track)
    seen_s = 0.0
    while True:
        try:
            packet = next(packets, None)
        except ffmpeg_error:
            damage.found(seen_s)
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except ffmpeg_error:
            frames = None
        if frames is None or packet.is_corrupt:
            damage.found(seen_s)
        for frame in frames or []:
            seen_s = frame.time if frame.time is not None else seen_s
            yield frame


def _first(path: str | Path, stream: Any) -> tuple[Fraction, Any]:
    with closing(_decoded(path, stream, allow_damaged=True)) as decoded:
        return next(decoded)


def _times(path: str | Path, allow_damaged: bool) -> list[Fraction]:
    """The time of every frame: from the packets, or where they have none, by decoding all."""
    with opened(path) as (container, stream):
        stamps: list[int | None] = []
        with suppress(load_av().error.FFmpegError):  # who decodes will meet it, and report it
            stamps += (p.pts for p in container.demux(stream) if p.size and not p.is_discard)
        timed = sorted(stamp for stamp in stamps if stamp is not None)
        if timed and len(timed) == len(stamps):
            return [stamp * Fraction(stream.time_base) for stamp in timed]
    with opened(path) as (_, stream):
        return [time for time, _ in _decoded(path, stream, allow_damaged)]


def _measured_s(path: str | Path, frame_s: Fraction) -> Fraction:
    times = _times(path, allow_damaged=True)
    return times[-1] - times[0] + frame_s


def _from_zero(
    decoded: _Decoded,
) -> Iterator[tuple[Fraction, Callable[[], Pixels]]]:
    begin: Fraction | None = None
    for time, frame in decoded:
        begin = time if begin is None else begin
        yield time - begin, partial(_small, frame)


def _small(frame: Any) -> Pixels:
    return squashed(_upright(frame), SYNC_SIZE, SYNC_SIZE)


def _upright(frame: Any) -> Pixels:
    """[H, W, 3] as it is to be shown: phones film sideways and say so."""
    picture = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))


def _window(sync: Sequence[Pixels], slow: Sequence[Pixels]) -> Window:
    return Window(sync_frames=np.stack(sync), slow_frames=np.stack(slow))


def _gathered(decoded: _Decoded, wanted: list[Fraction], size: Size) -> Pixels:
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
    picture = _upright(frame)
    if out is None:
        out = np.empty((n, *size(n, *picture.shape[:2]), 3), np.uint8)
    out[at] = bicubic(picture, *out.shape[1:3])
    return out


# ---- sound


def _heard(
    path: str | Path, track: Any, allow_damaged: bool
) -> Iterator[tuple[Fraction | None, Samples]]:
    """Decoded pieces [channels, n] as they come, and their times."""
    resampler = load_av().AudioResampler(format="fltp")
    damage = _Damage(path=path, allowed=allow_damaged)
    for frame in _frames(track, damage):
        time = None if frame.pts is None else _time(frame)
        for piece in resampler.resample(frame):
            yield time, piece.to_ndarray()


def _placed(
    path: str | Path, pieces: Iterator[tuple[Fraction | None, Samples]], begin: Fraction, rate: int
) -> Samples | None:
    """The pieces one after the other, sample 0 at `begin`; more than a small gap is silence."""
    parts: list[Samples] = []
    at = first = 0
    for time, samples in pieces:
        due = at if time is None else round((time - begin) * rate)
        if max(at, due) > LONGEST_S * rate:
            raise _too_long(path)
        if not parts:
            at = first = due
        if due - at > _GAP_S * rate:
            parts.append(np.zeros((len(samples), due - at), np.float32))
            at = due
        parts.append(samples)
        at += samples.shape[1]
    if not parts:
        return None
    whole = np.concatenate(parts, axis=1)
    return whole[:, -first:] if first < 0 else np.pad(whole, [(0, 0), (first, 0)])


# ---- small things


def _time(frame: Any) -> Fraction:
    return Fraction(frame.pts * frame.time_base)


def _rate(stream: Any) -> Fraction:
    """Frames per second on average; what the codec says where the file has no times; else 25."""
    timed = stream.start_time is not None
    rates = (stream.average_rate, stream.guessed_rate)
    return Fraction(next((rate for rate in (rates if timed else rates[::-1]) if rate), 25))


def declared_s(container: Any, stream: Any) -> Fraction | None:
    if stream.duration and stream.time_base:
        return Fraction(stream.duration * stream.time_base)
    return Fraction(container.duration, 1_000_000) if container.duration else None


def _check_rule(rule: str) -> None:
    if rule not in get_args(FrameRule):
        raise RequestError(f"rule must be one of {', '.join(get_args(FrameRule))}, got {rule!r}")


def _too_long(path: str | Path) -> RequestError:
    return RequestError(f"{path} lasts longer than {LONGEST_S} s: cut it first")
