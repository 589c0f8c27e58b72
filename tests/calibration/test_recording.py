"""Laws of recording: real calls, evenly over a case, at most so many, and copies of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omni_rt.calibration.recording import Recorded, Recorder, RecordingEngine
from omni_rt.calibration.smooth import Folds
from omni_rt.calibration.trajectories import run_case
from omni_rt.engines.ort import OrtEngine
from omni_rt.metrics import rel_l2
from omni_rt.session import Session
from omni_rt.uncertified import unsaid
from tests.calibration.small import (
    noise,
    parity_inputs,
    quick_miniature,
    random_factor,
    smoothing,
)
from tests.calibration.test_groups import family_of, groups
from tests.calibration.test_observe import case_of
from tests.calibration.test_search import WIDTH, chain


class Case:
    """What an engine is told of the case that runs."""

    def __init__(self, case: str = "a") -> None:
        self.case = case


def engine(case: Case, *, most: int) -> RecordingEngine:
    return RecordingEngine(chain(), case, most=most)  # type: ignore[arg-type]


def run(own: RecordingEngine, number: int) -> None:
    """A call that can be told from others."""
    own.run(x=np.full((1, WIDTH, 1), number, np.float32))


def numbers(calls: list[Recorded]) -> list[int]:
    return [int(call.arrays["x"].flat[0]) for call in calls]


@pytest.mark.parametrize("most", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 16, 17, 100])
def test_at_most_so_many_calls_of_a_case_are_kept_and_evenly(most: int, count: int) -> None:
    own = engine(Case(), most=most)
    for i in range(count):
        run(own, i)
        assert len(own.calls) <= most
    kept = numbers(own.calls)
    assert len(kept) >= min(count, (most + 1) // 2)
    if count:
        assert kept[0] == 0
        assert len(set(np.diff(kept))) <= 1  # one step for all
        step = int(np.diff(kept)[0]) if len(kept) > 1 else count
        assert most == 1 or count - 1 - kept[-1] < step  # up to the end
    if count <= most:
        assert kept == list(range(count))


def test_every_case_has_its_own_calls() -> None:
    case = Case("a")
    own = engine(case, most=4)
    for name, count in (("a", 9), ("b", 2), ("c", 100)):
        case.case = name
        for i in range(count):
            run(own, i)
    by_case = {n: numbers([c for c in own.calls if c.case == n]) for n in "abc"}
    assert by_case["b"] == [0, 1]
    assert all(1 < len(kept) <= 4 for kept in by_case.values())


def test_a_case_that_comes_again_keeps_no_more() -> None:
    case = Case()
    own = engine(case, most=4)
    for name in "abab":
        case.case = name
        for i in range(20):
            run(own, i)
            assert sum(call.case == name for call in own.calls) <= 4


def test_recorded_arrays_are_copies() -> None:
    """The loop's buffers are overwritten step by step."""
    own, x = engine(Case(), most=4), np.ones((1, WIDTH, 2), np.float32)
    v = np.zeros_like(x)
    bound = own.bind({"x": x, "v": v})
    bound.enqueue()
    first = v.copy()
    x[...] = 7
    bound.enqueue()
    assert numbers(own.calls) == [1, 7]
    np.testing.assert_array_equal(own.calls[0].arrays["v"], first)
    np.testing.assert_array_equal(own.calls[1].arrays["v"], v)
    assert own.calls[0].size_bytes == x.nbytes + v.nbytes


def test_outputs_are_those_of_the_stage() -> None:
    x = noise(2, WIDTH, 3)
    made = engine(Case(), most=1).run(x=x.numpy())["v"]
    assert rel_l2(made, chain().module(x)) < 1e-6


@pytest.mark.parametrize("folded", [False, True])
def test_a_session_of_recorded_stages_keeps_what_the_loop_asked(folded: bool) -> None:
    """Inputs are the loop's, outputs the exact stage's; others run as they always do."""
    family = family_of("dit_step")
    widths = {name: layer.in_features for name, layer in family.linears()}
    made = [
        smoothing(g, random_factor(g, widths[g.name], seed=i))
        for i, g in enumerate(groups(family, "dit_step"))
        if folded and g.divided
    ]
    folds = Folds(made)
    recorder = Recorder(quick_miniature(), {"context": folds, "dit_step": folds}, most=2)
    case = case_of("T2A/0", 1, prompt="three clicks")
    folder = quick_miniature().directory
    with unsaid(), Session(folder, engine=recorder.engine, allow_uncertified=True) as session:
        recorder.case = case.name
        own = run_case(session, case, plan="euler-3", cfg_scale=3.0)
    with unsaid(), Session(folder, threads=1, allow_uncertified=True) as session:
        usual = run_case(session, case, plan="euler-3", cfg_scale=3.0)
    assert own is not None
    assert usual is not None
    assert rel_l2(own.latents, usual.latents) < 1e-4
    assert recorder.calls("signal") == []
    assert [call.case for call in recorder.calls("context")] == ["T2A/0"]
    steps = recorder.calls("dit_step")
    assert [float(call.arrays["t"].flat[0]) for call in steps] == pytest.approx([1, 1 / 3])
    ports = [port.name for port in recorder.stage("dit_step").ports.inputs]
    for call in steps:
        again = recorder.run("dit_step", **{name: call.arrays[name] for name in ports})
        np.testing.assert_array_equal(again["v"], call.arrays["v"])
    if not folded:
        spec = quick_miniature().graph("dit_step")
        engine_of_graph = OrtEngine(quick_miniature().path(spec.path), spec, threads=1)
        made_v = engine_of_graph.run(**{name: steps[1].arrays[name] for name in ports})["v"]
        assert rel_l2(made_v, steps[1].arrays["v"]) < 1e-5


def test_what_is_not_to_be_recorded_is_left_to_onnx_runtime() -> None:
    recorder = Recorder(quick_miniature(), {}, most=1)
    assert isinstance(recorder.engine(quick_miniature(), "transcript", 1), OrtEngine)
    assert recorder.calls("transcript") == []


def test_a_recorded_stage_takes_its_folds() -> None:
    group = next(
        g for g in groups(family_of("context"), "dit_step") if "cross_attn.to_out" in g.name
    )
    factor = torch.full((256,), 2.0)
    folds = {"context": Folds([smoothing(group, factor)])}
    recorder = Recorder(quick_miniature(), folds, most=1)
    inputs = parity_inputs("context")
    made = recorder.engine(quick_miniature(), "context", 1).run(**inputs)
    spec = quick_miniature().graph("context")
    exact = OrtEngine(quick_miniature().path(spec.path), spec, threads=1).run(**inputs)
    assert rel_l2(2 * made["v_00"], exact["v_00"]) < 1e-5
    assert rel_l2(made["k_00"], exact["k_00"]) < 1e-5
