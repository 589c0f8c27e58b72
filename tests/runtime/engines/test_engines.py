"""What every engine promises, whichever library it is."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_rt.bundle import Bundle
from omni_rt.engines import Engine

from .graphs import SIZES, assert_computed, computed, inputs_of

COUNT = st.integers(1, 5)


@pytest.mark.parametrize("stage", SIZES)
def test_it_computes_the_graph_and_says_what_goes_in_and_out(
    stage: str, load: Callable[..., Engine], bundle: Bundle
) -> None:
    engine, inputs = load(stage), inputs_of(stage, **SIZES[stage])
    assert (engine.inputs, engine.outputs) == (
        bundle.graph(stage).inputs,
        bundle.graph(stage).outputs,
    )
    assert_computed(stage, inputs, engine.run(**inputs))


@settings(max_examples=20, deadline=None)
@given(rows=COUNT, attending=COUNT, tokens=COUNT, seed=st.integers(0, 99))
def test_sizes_may_change_from_call_to_call(
    step: Engine, rows: int, attending: int, tokens: int, seed: int
) -> None:
    inputs = inputs_of("dit_step", R=rows, Q=attending, P=tokens, seed=seed)
    assert_computed("dit_step", inputs, step.run(**inputs))


def test_nothing_at_all_is_a_size_too(load: Callable[..., Engine]) -> None:
    """As the thinker's cache before its first token."""
    inputs = inputs_of("context", n=0)
    assert_computed("context", inputs, load("context").run(**inputs))


def test_the_same_inputs_give_the_same_bits_from_any_thread(step: Engine) -> None:
    cases = [inputs_of("dit_step", R=2, Q=1, P=3 + i, seed=i) for i in range(4)]
    alone = [step.run(**case)["v"] for case in cases]
    found: dict[int, list[np.ndarray]] = {}

    def work(index: int) -> None:
        found[index] = [step.run(**cases[index])["v"] for _ in range(10)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(v, alone[i]) for i in range(4) for v in found[i])


def test_an_output_is_the_callers_own(step: Engine) -> None:
    inputs = inputs_of("dit_step", **SIZES["dit_step"])
    first = step.run(**inputs)["v"]
    kept = first.copy()
    for seed in range(5):
        step.run(**inputs_of("dit_step", **SIZES["dit_step"], seed=seed + 1))
    assert np.array_equal(first, kept)
    first[:] = 0
    assert np.array_equal(step.run(**inputs)["v"], kept)


def test_inputs_may_be_views_and_locked(step: Engine) -> None:
    inputs = inputs_of("dit_step", **SIZES["dit_step"])
    wanted = step.run(**inputs)["v"]
    turned = {name: np.asfortranarray(array) for name, array in inputs.items()}
    turned["x"] = np.repeat(inputs["x"], 2, axis=0)[::2]
    for array in turned.values():
        array.flags.writeable = False
    assert np.array_equal(step.run(**turned)["v"], wanted)


def test_bound_buffers_are_read_and_written_where_they_are(step: Engine) -> None:
    inputs = inputs_of("dit_step", **SIZES["dit_step"])
    made = np.full(inputs["x"].shape, np.nan, np.float32)
    bound = step.bind({**inputs, "v": made})
    for factor in (1, 2, -3):
        inputs["x"] *= factor
        bound.enqueue()
        assert_computed("dit_step", inputs, {"v": made})


def test_bindings_of_one_engine_are_apart(step: Engine) -> None:
    cases = [inputs_of("dit_step", R=i, Q=i, P=i, seed=i) for i in (1, 3)]
    made = [np.zeros_like(case["x"]) for case in cases]
    bound = [step.bind({**c, "v": m}) for c, m in zip(cases, made, strict=True)]
    for index in (0, 1, 0):
        bound[index].enqueue()
    step.run(**cases[1])
    for case, found in zip(cases, made, strict=True):
        assert_computed("dit_step", case, {"v": found})


def test_bound_buffers_outlive_their_names(step: Engine) -> None:
    made = np.zeros((4, 4, 6), np.float32)

    def bind() -> tuple:
        inputs = inputs_of("dit_step", **SIZES["dit_step"])
        return step.bind({**inputs, "v": made}), computed("dit_step", inputs)["v"]

    bound, wanted = bind()
    clutter = [np.full(3000, np.nan, np.float32) for _ in range(100)]
    bound.enqueue()
    assert len(clutter) == 100
    assert np.allclose(made, wanted, atol=1e-5)
