"""What pins a calibration set, and what does not: machines, order, places."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_rt.audio import Audio
from omni_rt.calibration.digest import digest_of
from omni_rt.calibration.films import film_frames
from omni_rt.calibration.inputs import Case, calibration_set
from omni_rt.calibration.mixing import Stream
from omni_rt.export.miniature.film import write_film
from tests.calibration.sets import BLIND, MODELS, OTHER_DIMS, blind

PINNED = "83e5f8d4565eae661064365445d9ccd7bdf842c3adb22f42d4e5b9e5d4d8d042"


@MODELS
def test_the_seed_alone_decides(dims: Any, tmp_path: Path) -> None:
    def digest(folder: str, seed: int) -> str:
        return calibration_set(dims, BLIND, per_task=1, seed=seed, folder=tmp_path / folder).digest

    assert digest("a", 3) == digest("b", 3)
    assert digest("a", 3) != digest("a", 4)


def test_the_set_is_pinned(tmp_path: Path) -> None:
    """The same on every machine. Who changes captions or sounds on purpose changes this too."""
    assert blind(tmp_path).digest == PINNED


@MODELS
def test_the_last_bits_of_a_processors_arithmetic_do_not_decide(
    dims: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sines, Fourier transforms and resampling differ by an ulp between processors."""
    import soxr

    digest, noise = calibration_set(dims, BLIND, folder=tmp_path).digest, Stream(0)

    def elsewhere(function: Callable[..., Any], *, of_largest: bool) -> Callable[..., Any]:
        def other(*given: Any, **options: Any) -> Any:
            out = function(*given, **options)
            if np.asarray(out).dtype not in (np.float64, np.complex128):
                return out
            scale = np.abs(out).max() if of_largest else out
            return out + scale * 2.3e-16 * noise.randint(-1, 2, np.shape(out))

        return other

    for name in ("sin", "cos", "exp", "angle", "square", "log10"):
        monkeypatch.setattr(np, name, elsewhere(getattr(np, name), of_largest=False))
    for name in ("rfft", "irfft"):
        monkeypatch.setattr(np.fft, name, elsewhere(getattr(np.fft, name), of_largest=True))
    monkeypatch.setattr(soxr, "resample", elsewhere(soxr.resample, of_largest=True))
    assert calibration_set(dims, BLIND, folder=tmp_path).digest == digest


def test_a_larger_set_contains_the_smaller_one(tmp_path: Path) -> None:
    small, large = blind(tmp_path), blind(tmp_path, per_task=3)
    names = {case.name for case in small.cases}
    kept = [case for case in large.cases if case.name in names]
    assert len(kept) == len(small.cases) < len(large.cases)
    assert digest_of(kept) == small.digest


def changed(clip: Audio) -> Audio:
    """One sample, by one step of 16 bits."""
    samples = clip.samples.copy()
    samples[0, 100] += 2**-15
    return Audio(samples, clip.sample_rate_hz)


CHANGES: dict[str, tuple[str, Callable[[Case], Case]]] = {
    "caption": ("T2A/0", lambda c: _with(c, prompt="Heavy snow")),
    "transcript": ("TTS/0", lambda c: _with(c, prompt="Good evening, everyone.")),
    "description": ("Remove/0", lambda c: _with(c, desc="the other one")),
    "category": ("Style Transfer/0", lambda c: _with(c, target_category="tuba")),
    "sample": ("Remove/0", lambda c: _with(c, source=changed(c.request.source))),
    "voice": ("VC/0", lambda c: _with(c, voice=changed(c.request.voice))),
    "heard": ("understand/0", lambda c: replace(c, audio=changed(c.audio))),
    "rate": ("understand/0", lambda c: replace(c, audio=Audio(c.audio.samples, 4001))),
    "question": ("understand/0", lambda c: replace(c, question="What is it?")),
    "seed": ("Add/0", lambda c: replace(c, seed=c.seed ^ 1)),
}


def _with(case: Case, **values: Any) -> Case:
    assert case.request is not None
    return replace(case, request=replace(case.request, **values))


@pytest.mark.parametrize("what", CHANGES)
def test_one_change_changes_the_digest(what: str, tmp_path: Path) -> None:
    name, change = CHANGES[what]
    made = blind(tmp_path)
    cases = [change(case) if case.name == name else case for case in made.cases]
    assert digest_of(made.cases) == made.digest != digest_of(cases)


def test_order_provenance_and_places_do_not_change_the_digest(tmp_path: Path) -> None:
    made = blind(tmp_path)
    (edit,) = [case for case in made.cases if case.task == "Remove"]
    source = edit.request.source  # type: ignore[union-attr]
    kept = Audio(source.samples, source.sample_rate_hz, {"file": "x.wav"}, recorded=True)
    file = kept.save(tmp_path / "kept.wav")
    for other in (kept, file, str(file)):
        moved = [_with(c, source=other) if c is edit else c for c in reversed(made.cases)]
        assert digest_of(moved) == made.digest


def test_pixels_decide_and_not_the_file(tmp_path: Path) -> None:
    pytest.importorskip("av")
    stages = (*BLIND, "vision_tower")
    made = calibration_set(OTHER_DIMS, stages, per_task=1, folder=tmp_path)
    (case,) = [case for case in made.cases if case.video is not None]
    assert case.video is not None
    moved = shutil.copy(case.video, tmp_path / "moved.mkv")
    assert digest_of([replace(case, video=moved)]) == digest_of([case])
    frames = film_frames(Stream(1), 25)
    first = replace(case, video=write_film(frames, tmp_path / "first.mkv"))
    again = replace(case, video=write_film(frames, tmp_path / "again.mkv"))
    frames[20, 50, 60, 1] ^= 1
    other = replace(case, video=write_film(frames, tmp_path / "other.mkv"))
    assert digest_of([first]) == digest_of([again]) != digest_of([other])
