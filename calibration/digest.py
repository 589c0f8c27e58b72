"""What pins a calibration set: all that a model is told of its cases, and nothing else.

Of a recording its rate and samples count, of a video its pictures and their times: neither
where they lie nor how they are packed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from omni_rt.audio import Audio
from omni_rt.calibration.case import Case
from omni_rt.decoding import decoded_frames, opened, upright
from omni_rt.tasks import Request


def digest_of(cases: Collection[Case]) -> str:
    """SHA-256 of names, tasks, texts, samples, pixels and seeds; the cases' order is no matter."""
    told = sorted((_told(case) for case in cases), key=lambda one: str(one["name"]))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def recording_digest(clip: Audio) -> str:
    """SHA-256 of a recording's rate and samples."""
    head = f"{clip.sample_rate_hz} {clip.samples.shape} ".encode()
    samples = (clip.samples + 0.0).astype("<f4")  # zero has no sign
    return hashlib.sha256(head + samples.tobytes()).hexdigest()


def _told(value: Any, name: str = "") -> Any:
    """What JSON can hold of a case, a request, or one of their fields."""
    if isinstance(value, Case | Request):
        return {f.name: _told(getattr(value, f.name), f.name) for f in fields(value)}
    if name == "video" and value is not None:
        return _pixel_digest(value)
    if name in ("source", "voice", "audio") and isinstance(value, str | Path):
        value = Audio.read(value)
    if isinstance(value, Audio):
        return recording_digest(value)
    return value


def _pixel_digest(path: str | Path) -> str:
    found = hashlib.sha256()
    with opened(path) as (_, stream):
        for time, frame in decoded_frames(path, stream, allow_damaged=False):
            picture = upright(frame)
            found.update(f"{time} {picture.shape} ".encode() + picture.tobytes())
    return found.hexdigest()
