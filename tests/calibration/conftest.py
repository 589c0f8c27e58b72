"""What several tests of calibration are given."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from omni_rt.calibration.mixing import Stream, procedural


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder of a user's recordings: three files of different rates, one in a subfolder."""
    folder = tmp_path / "sounds"
    (folder / "deeper").mkdir(parents=True)
    for name, kind, rate_hz in (
        ("a.wav", "voice", 8000),
        ("b.flac", "chord", 44_100),
        ("deeper/c.WAV", "noise", 4000),
    ):
        wave = procedural(kind, Stream(5), rate_hz=rate_hz, samples=2 * rate_hz)
        kind_of_file = "FLAC" if name.endswith("flac") else "WAV"
        soundfile.write(folder / name, 0.5 * wave, rate_hz, format=kind_of_file)
    return folder
