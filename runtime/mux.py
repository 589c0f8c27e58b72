"""A video's picture as it is, with other sound: packets are copied, only the sound is encoded."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from omni_rt.audio import Audio, Samples
from omni_rt.decoding import load_av, opened
from omni_rt.errors import RequestError
from omni_rt.preprocess.waveform import resampled
from omni_rt.video import probe
from omni_rt.whole_file import checked_target, draft_of

_CODECS = {".mp4": "aac", ".mov": "aac", ".mkv": "aac", ".webm": "libopus"}
VIDEO_SUFFIXES = tuple(_CODECS)
_RATES_HZ = {"aac": (48_000, 44_100, 32_000, 24_000, 22_050, 16_000), "libopus": (48_000,)}
_LAYOUTS = {1: "mono", 2: "stereo"}
_EDIT_LISTS = frozenset({".mp4", ".mov"})  # these can hide frames that others only decode from
_BITS_PER_S = 192_000
_LONGER_S = 0.1  # sound that outlasts the picture by more is cut
_FRAME_SAMPLES = 1024

_Timed = tuple[Fraction, int, Any]  # seconds, 0 for pictures and 1 for sound, packet


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """What of a stream's packets is shown, in units of its time base."""

    begin: int
    end: int
    hidden: bool  # there are frames before the first that is shown
    dts: list[int]  # when to decode each packet, up to the last that is shown


def check_video_target(path: str | Path) -> tuple[Path, str]:
    """The path and its sound's codec. Raises RequestError for a suffix or folder that cannot be."""
    return checked_target(path, _CODECS)


def with_sound(video: str | Path, audio: Audio, out: str | Path) -> Path:
    """Write `out`: the picture of `video`, bit by bit, and `audio` as its only sound.

    Whole or not at all; both begin at 0. Sound that outlasts the picture by more than 0.1 s is
    cut; shorter sound just ends. Raises RequestError for a still image, for a picture that the
    container cannot hold, and for sound of more than two channels.
    """
    target, _ = check_video_target(out)
    if probe(video).is_image:
        raise RequestError(f"{video}: no moving picture to copy; write a .wav")
    if audio.samples.shape[0] not in _LAYOUTS or audio.samples.shape[1] == 0:
        raise RequestError(f"a video's sound has 1 or 2 channels, got {audio.samples.shape}")
    with draft_of(target) as draft:
        _write(video, audio, draft)
    return target


def _write(video: str | Path, audio: Audio, draft: Path) -> None:
    av, suffix = load_av(), draft.suffix
    shown = _shown(video)
    if shown.hidden and suffix not in _EDIT_LISTS:
        raise RequestError(f"{video} hides its first frames, which {suffix} cannot: use .mp4")
    fast = {"movflags": "+faststart"} if suffix in _EDIT_LISTS else {}
    with opened(video) as (source, picture):
        try:
            with av.open(f"file:{draft}", "w", options=fast) as container:
                track = _picture_track(container, picture, video, suffix)
                length_s = (shown.end - shown.begin) * picture.time_base
                sounds = _sounds(container, audio, _CODECS[suffix], float(length_s))
                _start(container, picture, video, suffix)
                pictures = _pictures(source, picture, shown, track, video)
                for _, _, packet in heapq.merge(pictures, sounds, key=lambda timed: timed[:2]):
                    container.mux(packet)
        except av.error.FFmpegError as error:
            raise RequestError(f"cannot write {suffix}: {error.strerror}") from error


def _picture_track(container: Any, picture: Any, video: str | Path, suffix: str) -> Any:
    try:
        return container.add_stream_from_template(picture)
    except ValueError as error:
        raise _misfit(picture, video, suffix) from error


def _start(container: Any, picture: Any, video: str | Path, suffix: str) -> None:
    """Write the header, which is where some containers find that a codec does not fit."""
    ffmpeg_error = load_av().error.FFmpegError
    try:
        container.start_encoding()
    except ffmpeg_error as error:
        with suppress(ffmpeg_error):
            container.close()
        raise _misfit(picture, video, suffix) from error


def _misfit(picture: Any, video: str | Path, suffix: str) -> RequestError:
    return RequestError(
        f"{video}: a picture in {picture.codec_context.name} cannot go into {suffix} as it is: "
        "write .mkv"
    )


def _packets(source: Any, picture: Any, video: str | Path) -> Iterator[Any]:
    """The picture's packets. Raises RequestError for damage and where they have no times."""
    try:
        for packet in source.demux(picture):
            if not packet.size:
                continue
            if packet.pts is None:
                raise RequestError(f"{video} holds no times: put its picture into a .mkv first")
            yield packet
    except load_av().error.FFmpegError as error:
        raise RequestError(f"{video} is damaged: {error.strerror}") from error


def _shown(video: str | Path) -> _Shown:
    with opened(video) as (source, picture):
        frame = round(1 / ((picture.average_rate or 25) * picture.time_base))
        packets = [
            (p.is_discard, p.pts, p.duration or frame, p.dts)
            for p in _packets(source, picture, video)
        ]
    while packets and packets[-1][0]:
        packets.pop()
    visible = [(pts, length) for discarded, pts, length, _ in packets if not discarded]
    if not visible:
        raise RequestError(f"{video} holds no frames")
    begin = min(pts for pts, _ in visible)
    every = [pts for _, pts, _, _ in packets]
    told = [dts for _, _, _, dts in packets]
    return _Shown(
        begin=begin,
        end=max(pts + length for pts, length in visible),
        hidden=min(every) < begin,
        dts=_decoding_times(every) if None in told else told,
    )


def _decoding_times(shown: list[int]) -> list[int]:
    """Times that ascend and precede those of showing: .mkv has none, .mp4 must have them."""
    ascending = sorted(shown)
    early = max(after - before for after, before in zip(ascending, shown, strict=True))
    return [time - early for time in ascending]


def _pictures(
    source: Any, picture: Any, shown: _Shown, track: Any, video: str | Path
) -> Iterator[_Timed]:
    for dts, packet in zip(shown.dts, _packets(source, picture, video), strict=False):
        packet.pts -= shown.begin
        packet.dts = dts - shown.begin
        packet.stream = track
        yield Fraction(packet.dts * packet.time_base), 0, packet


def _sounds(container: Any, audio: Audio, codec: str, length_s: float) -> Iterator[_Timed]:
    """Adds the sound track at once; its packets come as they are asked for."""
    rate = audio.sample_rate_hz if audio.sample_rate_hz in _RATES_HZ[codec] else _RATES_HZ[codec][0]
    samples = resampled(audio.samples, from_hz=audio.sample_rate_hz, to_hz=rate)
    if samples.shape[1] > (length_s + _LONGER_S) * rate:
        samples = samples[:, : max(1, round(length_s * rate))]
    track = container.add_stream(codec, rate=rate, layout=_LAYOUTS[len(samples)])
    track.bit_rate = _BITS_PER_S
    return _encoded(track, np.ascontiguousarray(samples), rate)


def _encoded(track: Any, samples: Samples, rate: int) -> Iterator[_Timed]:
    audio_frame = load_av().AudioFrame
    for at in range(0, samples.shape[1], _FRAME_SAMPLES):
        block = np.ascontiguousarray(samples[:, at : at + _FRAME_SAMPLES])
        frame = audio_frame.from_ndarray(block, format="fltp", layout=_LAYOUTS[len(samples)])
        frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
        yield from _timed(track.encode(frame))
    yield from _timed(track.encode())


def _timed(packets: list[Any]) -> Iterator[_Timed]:
    return ((Fraction(packet.pts * packet.time_base), 1, packet) for packet in packets)
