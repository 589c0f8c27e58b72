"""A user's recordings, to be heard while a model is observed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from omni_rt.calibration.digest import recording_digest
from omni_rt.calibration.mixing import Wave, sounding
from omni_rt.errors import ExportError, RequestError
from omni_rt.manifest import Dims
from omni_rt.preprocess.waveform import mono, read_clip

_SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf"))
_MOST_SOUNDS = 256  # kept in memory, about 2 MB each
_LEAST_S, _LEAST_PEAK = 0.1, 1e-4


def user_sounds(folder: Path | None, *, dims: Dims) -> tuple[Wave, ...]:
    """Beginnings of the recordings below a folder, in an order that only their contents decide.

    No folder, no sounds. Raises ExportError if it holds none, or one that cannot be used.
    """
    if folder is None:
        return ()
    try:
        paths = [p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file()]
    except OSError as error:
        raise ExportError(f"calibration: cannot read {folder}: {error}") from error
    found: dict[str, Wave] = {}
    for path in sorted(p for p in paths if not p.name.startswith(".")):
        digest, wave = _user_sound(path, dims)
        found[digest] = wave
        if len(found) > _MOST_SOUNDS:
            del found[max(found)]
    if not found:
        kinds = ", ".join(sorted(_SUFFIXES))
        raise ExportError(f"calibration: no sounds in {folder}: expected files of {kinds}")
    return tuple(found[digest] for digest in sorted(found))


def _user_sound(path: Path, dims: Dims) -> tuple[str, Wave]:
    """A file's digest, and what is heard of it from its first sound on, as long as a clip."""
    try:
        clip = read_clip(path, what=str(path))
    except RequestError as error:
        raise ExportError(f"calibration: {error}: repair or remove it") from error
    wave = mono(clip, rate_hz=dims.sample_rate_hz).astype(np.float64)
    if np.abs(wave).max() < _LEAST_PEAK:
        raise ExportError(f"calibration: {path} is silent: remove it")
    begin = int(np.argmax(sounding(wave, rate_hz=dims.sample_rate_hz)))
    kept = wave[begin : begin + min(dims.window_samples, dims.clip_samples)]
    if len(kept) < _LEAST_S * dims.sample_rate_hz:
        raise ExportError(f"calibration: less than {_LEAST_S:g} s is heard of {path}: remove it")
    return recording_digest(clip), kept
