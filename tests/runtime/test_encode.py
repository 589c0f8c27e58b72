"""Conditioning from plain arrays, and states squeezed to the model's context."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from omni_rt import Session, miniature
from omni_rt.bundle import Bundle
from omni_rt.encode import Conditioning, shorten
from omni_rt.engines import Array, Engine
from omni_rt.engines.ort import load_engine
from omni_rt.errors import RequestError

HIDDEN = np.ones((3, 4))


@pytest.mark.parametrize(
    ("length", "tokens"), [(5, 4), (7, 3), (100, 64), (2049, 2048), (3640, 2048), (9, 1), (8, 4)]
)
def test_long_states_are_interpolated_between_half_pixel_centres(length: int, tokens: int) -> None:
    """Spec THINKER §4, row by row in fp64."""
    states = np.random.default_rng(0).standard_normal((length, 3)).astype(np.float32)
    found = shorten(states, tokens)
    assert found.shape == (tokens, 3)
    assert found.dtype == np.float32
    for i in range(tokens):
        s = max((i + 0.5) * length / tokens - 0.5, 0.0)
        low = math.floor(s)
        high = min(low + 1, length - 1)
        expected = (1 - (s - low)) * states[low].astype(float) + (s - low) * states[high]
        # three roundings of 6e-8 on values up to 4, and the weight's own
        assert np.allclose(found[i], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [1, 3, 4])
def test_states_that_fit_are_untouched(length: int) -> None:
    states = np.ones((length, 3), np.float32)
    assert shorten(states, 4) is states


def test_constant_states_stay_constant() -> None:
    assert np.allclose(shorten(np.full((37, 2), 0.7, np.float32), 11), 0.7, atol=1e-7)


def test_a_ramp_stays_a_ramp() -> None:
    ramp = np.arange(100, dtype=np.float32)[:, None]
    assert np.allclose(np.diff(shorten(ramp, 40)[:, 0]), 2.5, atol=1e-5)


def test_absent_inputs_are_none() -> None:
    found = Conditioning.from_arrays(hidden=HIDDEN)
    assert found.hidden.dtype == np.float32
    for name in ("transcript_ids", "waveform", "sync", "mel_keep", "negative_hidden"):
        assert getattr(found, name) is None


def test_arrays_become_the_types_of_the_graphs() -> None:
    found = Conditioning.from_arrays(
        hidden=HIDDEN.tolist(),
        transcript_ids=[1, 2],
        waveform=[0, 1],
        sync=[[1, 2]],
        mel_keep=[1, 0],
        negative_hidden=HIDDEN[::2],
    )
    assert found.transcript_ids is not None
    assert found.transcript_ids.dtype == np.int64
    assert found.mel_keep is not None
    assert found.mel_keep.tolist() == [True, False]
    for value in (found.hidden, found.waveform, found.sync, found.negative_hidden):
        assert value is not None
        assert value.dtype == np.float32
        assert value.flags.c_contiguous


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", np.ones(4)),
        ("hidden", np.ones((1, 3, 4))),
        ("hidden", np.ones((0, 4))),
        ("hidden", [[np.nan]]),
        ("hidden", [["a"]]),
        ("hidden", [[1], [1, 2]]),
        ("hidden", None),
        ("waveform", np.ones((1, 4))),
        ("waveform", []),
        ("waveform", [np.inf]),
        ("sync", np.ones(4)),
        ("sync", [[-np.inf]]),
        ("negative_hidden", np.ones(4)),
        ("negative_hidden", [[np.nan]]),
    ],
)
def test_a_wrong_array_is_named(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"^{name} "):
        Conditioning.from_arrays(**{"hidden": HIDDEN, name: value})


@pytest.mark.parametrize("ids", [[-1], [0.5], [[1]], 3, "abc"])
def test_wrong_transcript_ids_are_named(ids: Any) -> None:
    with pytest.raises(RequestError, match="transcript ids"):
        Conditioning.from_arrays(hidden=HIDDEN, transcript_ids=ids)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mel_keep", [[True, False]]),
        ("mel_keep", True),
        ("mel_keep", [[True], [True, False]]),
        ("transcript_ids", [[1], [1, 2]]),
        ("hidden", np.ones((3, 0))),
    ],
)
def test_a_wrong_rank_or_an_empty_axis_is_refused(name: str, value: Any) -> None:
    with pytest.raises(RequestError):
        Conditioning.from_arrays(**{"hidden": HIDDEN, name: value})


class Counting:
    """Loads engines and counts the runs of `signal`."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, bundle: Bundle, stage: str, threads: int | None, /) -> Engine:
        engine = load_engine(bundle, stage, threads)
        if stage == "signal":
            engine.run = self._counted(engine.run)  # type: ignore[method-assign]
        return engine

    def _counted(self, run: Callable[..., dict[str, Array]]) -> Callable[..., dict[str, Array]]:
        def counted(**inputs: Array) -> dict[str, Array]:
            self.runs += 1
            return run(**inputs)

        return counted


def test_what_words_alone_prepend_is_computed_once() -> None:
    """And it is what silence prepends, to the bit."""
    counting = Counting()
    with Session(miniature(), engine=counting, threads=1) as session:
        dims = session.bundle.manifest.dims
        hidden = np.ones((3, dims.hidden_width), np.float32)
        words = Conditioning.from_arrays(hidden=hidden)
        silent = Conditioning.from_arrays(hidden=hidden, waveform=np.zeros(dims.window_samples))
        loud = Conditioning.from_arrays(hidden=hidden, waveform=np.ones(dims.window_samples))
        made = [session.sample(given, seed=1, plan="euler-1") for given in (words, words)]
        assert counting.runs == 1
        made += [session.sample(given, seed=1, plan="euler-1") for given in (silent, loud, words)]
        assert counting.runs == 3
    assert all(np.array_equal(made[0], made[i]) for i in (1, 2, 4))
    assert not np.array_equal(made[0], made[3])
