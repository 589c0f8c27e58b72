"""Files → frames in the order they are shown, with damage found and told (PyAV, Pillow)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from omni_rt.errors import RequestError
from omni_rt.options import raise_if_cancelled
from omni_rt.preprocess.resize import NEEDED, Pixels, pillow

Decoded = Generator[tuple[Fraction, Any], None, None]  # times as the file has them, frames

LONGEST_S = 600
_SLACK_S = 1  # ten minutes at 29.97 fps are a little more
_log = logging.getLogger("omni_rt")
_STILLS = frozenset({"PNG", "JPEG", "MPO", "BMP", "WEBP", "TIFF", "GIF", "PPM", "AVIF", "TGA"})
_UNSAID_S = Fraction(1, 2)  # a picture that ends earlier than its header says by this is reported


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its first stream of pictures, set to report damage.

    One thread decodes: with several, FFmpeg forgets to say which frames are broken.
    Raises RequestError if it is not a video, holds no picture, or is too long; and for what FFmpeg
    says meanwhile.
    """
    av = load_av()
    if not is_file(path):
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
            if (declared_s(container, pictures[0]) or 0) > LONGEST_S + _SLACK_S:
                raise too_long(path)
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


def still_picture(path: str | Path) -> Pixels | None:
    """The upright picture of a still image; None for everything else."""
    image = pillow()
    if not is_file(path):
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


@dataclass(slots=True, kw_only=True)
class Damage:
    """What to do about what cannot be decoded: an error, or one warning."""

    path: str | Path
    allowed: bool
    told: bool = False

    def found(self, at_s: Fraction | float) -> None:
        where = f"{self.path} is damaged about {float(at_s):.1f} s in"
        if not self.allowed:
            raise RequestError(
                f"{where}: repair it, or go on regardless with allow_damaged=True (--allow-damaged)"
            )
        if not self.told:
            _log.warning("%s; damaged frames show the one before", where)
            self.told = True


def decoded_frames(
    path: str | Path,
    stream: Any,
    allow_damaged: bool,
    cancel: threading.Event | None = None,
) -> Decoded:
    """PyAV's frames and their times as the file has them; without any, as the average rate says.

    Raises RequestError for damage, for too many, and for none; Cancelled between frames.
    """
    damage = Damage(path=path, allowed=allow_damaged)
    frame_s = 1 / average_rate(stream)
    begin: Fraction | None = None
    time, end, good = Fraction(0), Fraction(0), None
    for frame in read_frames(stream, damage):
        raise_if_cancelled(cancel)
        time = (
            (Fraction(0) if begin is None else time + frame_s)
            if frame.pts is None
            else time_of(frame)
        )
        end = time + max(frame_s, Fraction((frame.duration or 0) * (frame.time_base or 0)))
        begin = time if begin is None else begin
        if frame.is_corrupt:
            damage.found(time - begin)
            frame = good
        if time - begin > LONGEST_S + _SLACK_S:
            raise too_long(path)
        if frame is not None:
            good = frame
            yield time, frame
    if begin is None or good is None:
        raise RequestError(f"{path} holds no frames that can be decoded")
    _check_whole(path, stream, end, begin, damage)


def _check_whole(
    path: str | Path, stream: Any, end: Fraction, begin: Fraction, damage: Damage
) -> None:
    """A file that was cut off is damaged where it ends: there is less of it than it says."""
    container = stream.container
    declared = declared_s(container, stream)
    if declared is None and container.duration:  # it may be the sound's
        declared, end = Fraction(container.duration, 1_000_000), max(end, _last_packet_s(path))
    if (declared or 0) - max(end, end - begin) > _UNSAID_S:  # some count from the first frame
        damage.found(end - begin)


def _last_packet_s(path: str | Path) -> Fraction:
    """When the last packet of any stream ends."""
    last = Fraction(0)
    with opened(path) as (container, _), suppress(load_av().error.FFmpegError):
        for packet in container.demux():
            if packet.pts is not None and packet.time_base:
                last = max(last, (packet.pts + (packet.duration or 0)) * packet.time_base)
    return last


def read_frames(track: Any, damage: Damage) -> Iterator[Any]:
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


def first_frame(path: str | Path, stream: Any) -> tuple[Fraction, Any]:
    with closing(decoded_frames(path, stream, allow_damaged=True)) as decoded:
        return next(decoded)


def frame_times(path: str | Path, allow_damaged: bool) -> list[Fraction]:
    """The time of every frame: from the packets, or where they have none, by decoding all."""
    with opened(path) as (container, stream):
        stamps: list[int | None] = []
        with suppress(load_av().error.FFmpegError):  # who decodes will meet it, and report it
            stamps += (p.pts for p in container.demux(stream) if p.size and not p.is_discard)
        timed = sorted(stamp for stamp in stamps if stamp is not None)
        if timed and len(timed) == len(stamps):
            return [stamp * Fraction(stream.time_base) for stamp in timed]
    with opened(path) as (_, stream):
        return [time for time, _ in decoded_frames(path, stream, allow_damaged)]


def upright(frame: Any) -> Pixels:
    """[H, W, 3] as it is to be shown: phones film sideways and say so."""
    picture = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))


def time_of(frame: Any) -> Fraction:
    return Fraction(frame.pts * frame.time_base)


def average_rate(stream: Any) -> Fraction:
    """Frames per second on average; what the codec says where the file has no times; else 25."""
    timed = stream.start_time is not None
    rates = (stream.average_rate, stream.guessed_rate)
    return Fraction(next((rate for rate in (rates if timed else rates[::-1]) if rate), 25))


def declared_s(container: Any, stream: Any) -> Fraction | None:
    """How long the picture lasts by the file's header, if that says so."""
    if stream.duration and stream.time_base:
        return Fraction(stream.duration * stream.time_base)
    alone = len(container.streams) == 1  # else it may be the sound that lasts so long
    return Fraction(container.duration, 1_000_000) if container.duration and alone else None


def too_long(path: str | Path) -> RequestError:
    return RequestError(f"{path} lasts longer than {LONGEST_S} s: cut it first")


def is_file(path: str | Path) -> bool:
    """Whether there is a file; False also for a name that no file can have."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False
