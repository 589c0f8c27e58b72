"""Segments that are joined into one sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_rt.audio import Audio
from omni_rt.encode import Conditioning
from omni_rt.errors import RequestError
from omni_rt.longform import (
    edited,
    fade_join,
    finished,
    generated,
    requested_samples,
    segment_count,
)
from omni_rt.manifest import Dims
from omni_rt.options import OnStep, Sampling
from omni_rt.plans import make_plan
from omni_rt.tasks import TextToAudio

from .tiny_bundle import DIMS

QUIET = Conditioning(hidden=np.zeros((1, 8), np.float32))
HOW = Sampling(plan=make_plan("euler-2"), normalise=False)


@dataclass
class FakePipeline:
    """Clips of ones; notes what it was asked for."""

    dims: Dims = DIMS
    seeds: list[int] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)

    def clips(
        self,
        conditionings: Sequence[Conditioning],
        seeds: Sequence[int],
        how: Sampling,
        on_step: OnStep | None,
    ) -> list[np.ndarray]:
        self.seeds += seeds
        self.heard += [c.waveform for c in conditionings]
        for step in range(how.plan.evaluations):
            if on_step is not None:
                on_step(step + 1, how.plan.evaluations)
        return [np.ones((2, self.dims.clip_samples), np.float32) for _ in seeds]


@given(st.integers(1, 5000), st.integers(1, 200), st.integers(1, 200))
def test_segments_cover_the_total_and_no_fewer_would(total: int, segment: int, hop: int) -> None:
    hop = min(hop, segment)
    count = segment_count(total, segment=segment, hop=hop)
    assert segment + (count - 1) * hop >= total
    assert count == 1 or segment + (count - 2) * hop < total


@st.composite
def joins(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """segment, overlap, count, total: as `generated` asks for them."""
    segment = draw(st.integers(2, 40))
    overlap = draw(st.integers(0, segment // 2))
    count = draw(st.integers(1, 5))
    covered = segment + (count - 1) * (segment - overlap)
    return segment, overlap, count, draw(st.integers(1, covered))


@given(joins())
def test_joined_pieces_are_as_long_as_asked_for(case: tuple[int, int, int, int]) -> None:
    segment, overlap, count, total = case
    segments = [np.zeros((2, segment), np.float32) for _ in range(count)]
    pieces = list(fade_join(segments, overlap=overlap, total=total))
    assert sum(piece.shape[1] for piece in pieces) == total
    assert all(piece.shape[1] > 0 and piece.flags.c_contiguous for piece in pieces)


@given(joins())
def test_a_constant_signal_stays_constant(case: tuple[int, int, int, int]) -> None:
    segment, overlap, count, total = case
    segments = [np.full((1, segment), 0.75, np.float32) for _ in range(count)]
    joined = np.concatenate(list(fade_join(segments, overlap=overlap, total=total)), axis=1)
    assert np.allclose(joined, 0.75, atol=1e-7)


@given(joins())
def test_windows_of_one_signal_join_to_that_signal(case: tuple[int, int, int, int]) -> None:
    segment, overlap, count, total = case
    hop = segment - overlap
    whole = np.random.default_rng(0).standard_normal((2, segment + count * hop), dtype=np.float32)
    segments = (whole[:, i * hop : i * hop + segment] for i in range(count))
    joined = np.concatenate(list(fade_join(segments, overlap=overlap, total=total)), axis=1)
    assert np.allclose(joined, whole[:, :total], atol=1e-6)


def test_a_piece_is_sent_as_soon_as_it_is_final() -> None:
    made: list[int] = []

    def segments() -> Any:
        for i in range(3):
            made.append(i)
            yield np.zeros((1, 10), np.float32)

    pieces = fade_join(segments(), overlap=2, total=26)
    assert next(pieces).shape == (1, 8)
    assert made == [0]


def test_one_window_is_cut_to_the_duration() -> None:
    pipeline: Any = FakePipeline()
    request = TextToAudio(prompt="rain")
    pieces = list(generated(pipeline, request, [QUIET], HOW, seed=3, total=550))
    assert [piece.shape for piece in pieces] == [(2, 550)]
    assert pipeline.seeds == [3]


@pytest.mark.parametrize("total", [601, 1000, 2345])
def test_a_long_generation_is_as_long_as_asked_for(total: int) -> None:
    pipeline: Any = FakePipeline()
    steps: list[tuple[int, int]] = []
    how = Sampling(plan=HOW.plan, on_step=lambda done, of: steps.append((done, of)))
    request = TextToAudio(prompt="rain")
    pieces = list(generated(pipeline, request, [QUIET], how, seed=3, total=total))
    assert sum(piece.shape[1] for piece in pieces) == total
    count = len(pipeline.seeds)
    assert pipeline.seeds == [3 + i for i in range(count)]
    assert steps == [(i + 1, 2 * count) for i in range(2 * count)]
    assert pipeline.heard[0] is None
    assert all(w.shape == (DIMS.window_samples,) for w in pipeline.heard[1:])


def test_every_segments_seed_is_a_seed() -> None:
    pipeline: Any = FakePipeline()
    request = TextToAudio(prompt="rain")
    list(generated(pipeline, request, [QUIET], HOW, seed=2**32 - 1, total=2000))
    assert all(0 <= seed < 2**32 for seed in pipeline.seeds)


@settings(deadline=None)
@given(st.integers(1, 3000))
def test_an_edit_is_as_long_as_its_source(samples: int) -> None:
    pipeline: Any = FakePipeline()
    source = Audio(np.zeros((2, samples)), DIMS.sample_rate_hz)
    assert edited(pipeline, source, QUIET, HOW, seed=0).shape[1] == samples


def test_a_duration_is_rounded_to_samples_of_at_least_one() -> None:
    assert requested_samples(DIMS, 0.5004, long=False) == 500
    assert requested_samples(DIMS, 1e-9, long=False) == 1


def test_only_long_tasks_outlast_one_window() -> None:
    assert requested_samples(DIMS, 0.6, long=False) == 600
    assert requested_samples(DIMS, 2.0, long=True) == 2000
    with pytest.raises(RequestError, match=r"at most 0\.60 s"):
        requested_samples(DIMS, 0.601, long=False)


def test_what_was_not_asked_for_is_cut_from_the_end() -> None:
    clip = np.arange(20, dtype=np.float32).reshape(2, 10)
    assert np.array_equal(finished(TextToAudio(prompt="x"), clip, DIMS, 4), clip[:, :4])
