"""Which frames are looked at, and their sizes: rules and pictures, no files of video."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_rt.errors import RequestError
from omni_rt.preprocess import frames as rules
from omni_rt.preprocess.resize import bicubic, cropped, normalised, squashed

GOLDEN_PICTURES = ["land_down", "port_down", "land_up", "exact"]

rates = st.one_of(
    st.integers(1, 120).map(Fraction),
    st.sampled_from([24, 30, 60]).map(lambda f: f / Fraction("1.001")),
)
few = settings(max_examples=40, deadline=None)
steps = st.lists(st.fractions(0, 1, max_denominator=90), min_size=1, max_size=60)


def ascending(gaps: list[Fraction]) -> list[Fraction]:
    """Presentation times from 0 on with these gaps between them."""
    return [sum(gaps[:i], Fraction(0)) for i in range(len(gaps))]


def stream(times: list[Fraction]) -> Iterator[tuple[Fraction, Any]]:
    return ((time, lambda i=i: i) for i, time in enumerate(times))


# ---- choosing


def test_both_rules_choose_what_the_original_chose(golden: Path) -> None:
    cases = json.loads((golden / "synchformer" / "frame_indices.json").read_text(encoding="utf-8"))
    assert len(cases) == 10
    for case in cases:
        fps, frames = Fraction(case["fps"]), case["frames_in_file"]
        for rate in (fps, float(fps)):
            found = rules.upstream_indices(
                fps=rate, frames_in_file=frames, target_hz=25, seconds=10
            )
            assert found == case["upstream_compat"], case["fps"]
        times = [index / fps for index in range(frames)]
        found = rules.time_correct_indices(times, target_hz=25, count=250)
        assert found == case["time_correct"], case["fps"]


@few
@given(steps, st.sampled_from([5, 25]), st.fractions(0, 3, max_denominator=10))
def test_a_slot_shows_the_first_frame_at_or_after_it(
    gaps: list[Fraction], hz: int, start: Fraction
) -> None:
    times = ascending(gaps)
    found = rules.time_correct_indices(times, target_hz=hz, count=40, start=start)
    for slot, index in enumerate(found):
        after = [i for i, time in enumerate(times) if time >= start + Fraction(slot, hz)]
        assert index == (after[0] if after else len(times) - 1)


@few
@given(rates, st.integers(1, 400))
def test_the_originals_rule_on_a_stream_is_the_one_on_a_file(fps: Fraction, frames: int) -> None:
    times = [index / fps for index in range(frames)]
    found = list(
        rules.upstream_windows(stream(times), fps=fps, frame_s=1 / fps, window_s=2, count=3)
    )
    for number, pictures in enumerate(found):
        for hz, seen in zip((25, 5), pictures, strict=True):
            wanted = rules.upstream_indices(
                fps=fps, frames_in_file=frames, target_hz=hz, seconds=2, start_s=2 * number
            )
            assert seen == wanted
    assert len(found) == 3


@few
@given(steps)
def test_windows_in_time_are_the_rule_with_their_start(gaps: list[Fraction]) -> None:
    times = ascending(gaps)
    found = list(
        rules.time_correct_windows(stream(times), frame_s=Fraction(1, 25), window_s=2, count=4)
    )
    assert len(found) == 4
    for number, (sync, slow) in enumerate(found):
        for hz, seen in ((25, sync), (5, slow)):
            assert seen == rules.time_correct_indices(
                times, target_hz=hz, count=2 * hz, start=2 * number
            )
        assert slow == sync[::5]


@few
@given(steps)
def test_only_pictures_that_are_looked_at_are_made_and_once(gaps: list[Fraction]) -> None:
    times, made = ascending(gaps), []

    def making(index: int) -> int:
        made.append(index)
        return index

    lazily = ((time, lambda i=i: making(i)) for i, time in enumerate(times))
    seen = list(rules.time_correct_windows(lazily, frame_s=Fraction(1), window_s=1, count=None))
    used = {index for sync, _ in seen for index in sync}
    assert used | {len(times) - 1} >= set(made)
    assert all(made.count(index) == 1 for index in made if index < len(times) - 1)


@pytest.mark.parametrize(
    ("seconds", "windows"),
    [("0.04", 1), ("9.9", 1), ("10", 1), ("10.24", 1), ("10.28", 2), ("20", 2), ("25", 3)],
)
@pytest.mark.parametrize("rule", ["time_correct", "upstream_compat"])
def test_a_window_needs_a_quarter_of_a_second_of_news(
    seconds: str, windows: int, rule: str
) -> None:
    fps, frame_s = Fraction(25), Fraction(1, 25)
    times = [index / fps for index in range(int(Fraction(seconds) * 25))]
    if rule == "time_correct":
        pairs = rules.time_correct_windows(stream(times), frame_s=frame_s, window_s=10, count=None)
    else:
        pairs = rules.upstream_windows(
            stream(times), fps=fps, frame_s=frame_s, window_s=10, count=None
        )
    found = list(pairs)
    assert [(len(sync), len(slow)) for sync, slow in found] == [(250, 50)] * windows
    assert found[-1][0][-1] == min(len(times), 250 * windows) - 1


def test_no_frames_are_an_error() -> None:
    with pytest.raises(RequestError, match="holds no frames"):
        next(rules.time_correct_windows(stream([]), frame_s=Fraction(1), window_s=1, count=1))
    with pytest.raises(RequestError, match="at least one frame"):
        rules.time_correct_indices([], target_hz=25, count=1)


@pytest.mark.parametrize(
    ("seconds", "frames", "most", "wanted"),
    [
        (10, 250, 768, 20),
        (9.944, 298, 768, 18),
        (0.5, 12, 768, 4),
        (600, 18_000, 768, 768),
        (600, 18_000, 101, 100),
        (3, 3, 768, 2),
        (0.1, 3, 768, 2),
        (0.04, 1, 768, 2),
        (Fraction(7, 2), 105, 768, 6),
    ],
)
def test_two_frames_a_second_are_understood(
    seconds: float, frames: int, most: int, wanted: int
) -> None:
    assert rules.understanding_count(seconds, frames, most) == wanted


def test_spread_indices_are_torchs_rounded_linspace() -> None:
    torch = pytest.importorskip("torch")
    for frames in [1, 2, 3, 10, 99, 298, 300, 1001]:
        for count in (2, 4, 18, 20):
            found = rules.spread_indices(frames, count)
            assert found == torch.linspace(0, frames - 1, count).round().long().tolist()


@few
@given(rates, st.integers(1, 300), st.integers(1, 30))
def test_at_a_constant_rate_nearest_frames_are_spread_evenly(
    fps: Fraction, frames: int, count: int
) -> None:
    times = [index / fps for index in range(frames)]
    assert rules.nearest_indices(times, count) == rules.spread_indices(frames, count)


@few
@given(steps, st.integers(2, 20))
def test_the_nearest_frame_is_nearest(gaps: list[Fraction], count: int) -> None:
    times = ascending(gaps)
    for j, index in enumerate(rules.nearest_indices(times, count)):
        moment = j * times[-1] / (count - 1)
        assert abs(times[index] - moment) == min(abs(time - moment) for time in times)


# ---- sizes


def golden_picture(golden: Path, name: str) -> list[np.ndarray]:
    """Pairs of an input [H, W, 3] and the original's outputs in both modes."""
    found = np.load(golden / "synchformer" / "preprocess.npz")
    kinds = [found[f"{name}_{kind}"].transpose(0, 2, 3, 1) for kind in ("raw", "A_u8", "B_u8")]
    return list(zip(*kinds, strict=True))


@pytest.mark.parametrize("name", GOLDEN_PICTURES)
def test_squashed_pictures_are_the_originals_to_the_bit(golden: Path, name: str) -> None:
    for raw, squashed_there, _ in golden_picture(golden, name):
        assert np.array_equal(squashed(raw, 224, 224), squashed_there)


@pytest.mark.parametrize("name", GOLDEN_PICTURES)
def test_cropped_pictures_are_the_originals_but_for_rounding(golden: Path, name: str) -> None:
    for raw, _, cropped_there in golden_picture(golden, name):
        off = np.abs(cropped(raw, 224).astype(int) - cropped_there)
        assert off.max() <= 2  # theirs is fixed point and clamps between its passes
        assert off.mean() < 0.01


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 255))
def test_squashed_is_torchs_antialiased_bilinear(height: int, width: int, most: int) -> None:
    torch = pytest.importorskip("torch")
    frame = np.random.default_rng(0).integers(0, most + 1, (height, width, 3)).astype(np.uint8)
    planes = torch.from_numpy(frame.transpose(2, 0, 1)[None].copy()).float()
    there = torch.nn.functional.interpolate(planes, (224, 224), mode="bilinear", antialias=True)
    off = squashed(frame, 224, 224) != there.round().byte().numpy()[0].transpose(1, 2, 0)
    assert off.mean() < 1e-4  # fp64 rounds twice where a fused multiply-add rounds once


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (3000, 4000), (225, 223), (2, 2)])
@pytest.mark.parametrize("resize", [squashed, bicubic])
def test_a_plain_picture_stays_plain_at_any_size(shape: tuple[int, int], resize: Any) -> None:
    frame = np.full((*shape, 3), (7, 130, 255), np.uint8)
    found = resize(frame, 24, 16)
    assert found.shape == (24, 16, 3)
    assert (found == (7, 130, 255)).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (200, 100)])
def test_a_crop_is_square(shape: tuple[int, int]) -> None:
    assert (cropped(np.full((*shape, 3), 9, np.uint8), 24) == np.full((24, 24, 3), 9)).all()


@pytest.mark.parametrize("resize", [squashed, bicubic])
def test_a_picture_that_fits_is_left_alone(resize: Any) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (24, 16, 3), np.uint8)
    assert np.array_equal(resize(frame, 24, 16), frame)


@pytest.mark.parametrize(
    "frame", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(frame: Any) -> None:
    with pytest.raises(RequestError, match=r"uint8 \[height, width, 3\]"):
        squashed(frame, 4, 4)


def test_normalised_pixels_are_planes_from_minus_one_to_one() -> None:
    frames = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    frames[0, 0, 0] = (0, 51, 255)
    found = normalised(frames)
    assert found.shape == (2, 3, 3, 4)
    assert found.dtype == np.float32
    assert found[0, :, 0, 0] == pytest.approx([-1, -0.6, 1])
    assert math.isclose(found[1, 2, 2, 3], frames[1, 2, 3, 2] / 127.5 - 1, abs_tol=1e-6)


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(RequestError, match=r"pip install 'omni_rt\[video\]'"):
        bicubic(np.zeros((2, 2, 3), np.uint8), 4, 4)
