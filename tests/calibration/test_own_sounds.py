"""A user's own sounds: which are used, what is heard of them, and which are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from omni_rt.calibration.mixing import Stream, procedural
from omni_rt.errors import ExportError
from tests.calibration.sets import blind


def test_a_users_sounds_are_used_whatever_they_are_called(sounds: Path, tmp_path: Path) -> None:
    own = blind(tmp_path, audio=sounds)
    assert own.digest != blind(tmp_path).digest
    (sounds / "b.flac").rename(sounds / "deeper" / "0.flac")
    shutil.copy(sounds / "a.wav", sounds / "a copy.wav")
    (sounds / "._a.wav").write_bytes(b"what macOS leaves behind")
    (sounds / "notes.txt").write_text("not a sound")
    assert blind(tmp_path, audio=sounds).digest == own.digest
    (sounds / "deeper" / "0.flac").unlink()
    assert blind(tmp_path, audio=sounds).digest != own.digest


def test_one_sound_is_enough_and_its_beginning_is_where_it_is_heard(tmp_path: Path) -> None:
    wave = np.zeros((3 * 4000, 2))
    wave[4000:] = 0.4 * procedural("tone", Stream(3), rate_hz=4000, samples=8000)[:, None]
    soundfile.write(tmp_path / "one.wav", wave, 4000, subtype="FLOAT")
    made = blind(tmp_path / "films", audio=tmp_path)
    (asked,) = [c for c in made.cases if c.name == "understand/0"]
    assert asked.audio is not None
    heard, given = asked.audio.samples[0], wave[4000:8000, 0]
    assert np.allclose(heard / np.abs(heard).max(), given / np.abs(given).max(), atol=1e-3)


def _file(name: str, wave: Any, **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        soundfile.write(folder / name, wave, 4000, **options)
        return folder

    return write


def _broken(folder: Path) -> Path:
    (folder / "broken.wav").write_bytes(b"RIFF, but nothing else")
    return folder


GOOD = 0.5 * procedural("tone", Stream(0), rate_hz=4000, samples=4000)
BAD_SOUNDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (lambda folder: folder, "no sounds in"),
    "missing": (lambda folder: folder / "missing", "no sounds in .*missing"),
    "silent": (_file("hush.wav", np.zeros(4000)), r"hush\.wav is silent"),
    "nearly silent": (_file("low.wav", GOOD * 1e-5, subtype="FLOAT"), r"low\.wav is silent"),
    "NaN": (_file("nan.wav", np.append(GOOD, np.nan), subtype="FLOAT"), r"nan\.wav holds NaN"),
    "short": (_file("blip.wav", GOOD[:200]), r"less than 0\.1 s is heard of .*blip\.wav"),
    "no samples": (_file("none.wav", GOOD[:0]), r"none\.wav"),
    "broken": (_broken, r"broken\.wav is not audio that can be decoded"),
}


@pytest.mark.parametrize("what", BAD_SOUNDS)
def test_unusable_sounds_are_named(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "sounds"
    folder.mkdir()
    make, message = BAD_SOUNDS[what]
    if what not in ("empty", "missing"):
        _file("good.wav", GOOD)(folder)
    with pytest.raises(ExportError, match=message):
        blind(tmp_path / "films", audio=make(folder))
