"""The sound track of a video, aligned with its picture."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from omni_rt.audio import Audio, Samples
from omni_rt.decoding import (
    LONGEST_S,
    Damage,
    first_frame,
    load_av,
    opened,
    read_frames,
    still_picture,
    time_of,
    too_long,
)

_GAP_S = Fraction(1, 10)  # less is the rounding of time stamps


def sound(path: str | Path, *, allow_damaged: bool = False) -> Audio | None:
    """The sound track at its own rate from the first frame's time on; None if there is none.

    What precedes the picture is dropped; a late start and gaps are silence. Raises RequestError
    for one that cannot be decoded or lasts longer than 600 s.
    """
    if still_picture(path) is not None:
        return None
    with opened(path) as (container, stream):
        if not container.streams.audio:
            return None
        begin = first_frame(path, stream)[0]
    with opened(path) as (container, _):
        track = container.streams.audio[0]
        rate = int(track.rate)
        samples = _placed(path, _heard(path, track, allow_damaged), begin, rate)
    if samples is None or samples.shape[1] == 0:
        return None
    return Audio(samples, rate, {"file": Path(path).name})


def _heard(
    path: str | Path, track: Any, allow_damaged: bool
) -> Iterator[tuple[Fraction | None, Samples]]:
    """Decoded pieces [channels, n] as they come, and their times."""
    resampler = load_av().AudioResampler(format="fltp")
    damage = Damage(path=path, allowed=allow_damaged)
    for frame in read_frames(track, damage):
        time = None if frame.pts is None else time_of(frame)
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
            raise too_long(path)
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
