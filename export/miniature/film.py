"""Frames → a video file, so that a model sees them as it sees everybody's videos."""

from __future__ import annotations

from pathlib import Path

from omni_rt.decoding import load_av
from omni_rt.errors import RequestError
from omni_rt.export.miniature.data.clip import Frames
from omni_rt.export.miniature.data.video import FPS
from omni_rt.preprocess.resize import pillow


def what_video_needs() -> str | None:
    """What must be installed before videos can be written and looked at; None if all is."""
    try:
        load_av()
        pillow()
    except RequestError as error:
        return str(error)
    return None


def write_film(frames: Frames, path: Path) -> Path:
    """Write frames [n, height, width, 3] as a .mkv of FPS frames a second, every pixel as it is.

    FFV1 in RGB: no colour is averaged or rounded. Raises RequestError without the extra `video`.
    """
    av = load_av()
    with av.open(str(path), "w") as container:
        track = container.add_stream("ffv1", rate=FPS)
        track.height, track.width = frames.shape[1:3]
        track.pix_fmt = "bgr0"
        for picture in frames:
            container.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(track.encode())
    return path
