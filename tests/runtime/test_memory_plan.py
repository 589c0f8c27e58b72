"""Sums, largest phases, refusals: the arithmetic of a plan on numbers given by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rt.devices import DEVICES
from omni_rt.engine_pool import PHASES, Memory
from omni_rt.errors import EngineError, RequestError
from omni_rt.manifest import EngineSpec, ProfileSpec
from omni_rt.memory_plan import (
    CONTEXT_BYTES,
    Job,
    MemoryPlan,
    StageMemory,
    check_fits,
    make_memory_plan,
    needed_bytes,
)
from omni_rt.plans import make_plan

from .test_roofline import MODEL

JOB = Job(plan=make_plan("euler-4"), duration_s=0.5)
ORIN = DEVICES["orin"]


def of(weights: int) -> StageMemory:
    return StageMemory(weights=weights, activation=20, buffers=3)


def plan(memory: Memory = "resident", job: Job = JOB) -> MemoryPlan:
    return make_memory_plan(MODEL, ORIN, job, memory=memory)


def test_resident_is_all_and_staged_the_largest_phase() -> None:
    used = {
        "thinker_embed": of(1),
        "thinker_cond": of(1000),
        "thinker_lm": of(900),
        "dit_step": of(1010),
    }
    found = needed_bytes(used)
    assert found["resident"] == CONTEXT_BYTES + 1 + 1000 + 900 + 1010 + 4 * 23
    assert found["staged"] == CONTEXT_BYTES + (1000 + 23) + (1 + 23)  # with the words' table


def test_no_mode_needs_less_than_its_largest_stage_and_staged_no_more_than_resident() -> None:
    found = plan()
    largest = max(stage.memory.total for stage in found.stages.values())
    assert CONTEXT_BYTES + largest <= found.needed_bytes["staged"]
    assert found.needed_bytes["staged"] <= found.needed_bytes["resident"]


def test_a_request_is_its_calls_times_their_rooflines() -> None:
    found = plan(job=replace(JOB, duration_s=1.5, rows=4))  # two requests of two windows each
    calls = {name: stage.calls for name, stage in found.stages.items()}
    assert found.segments == 3  # 1500 samples: windows of 600, one every 500
    assert calls == {"context": 6, "dit_step": 12, "vae_decoder": 6, "thinker_lm": 0}
    assert found.audio_s == 3.0
    assert found.request_s == sum(
        count * found.stages[name].cost.predicted_s for name, count in calls.items()
    )


def test_evaluations_are_counted_not_steps() -> None:
    heun = replace(JOB, plan=make_plan("heun-4"))
    assert plan(job=heun).stages["dit_step"].calls == 7  # two a step, but for the last one


def test_a_longer_prompt_and_more_rows_need_more() -> None:
    base = plan().needed_bytes["staged"]
    for larger in (replace(JOB, rows=8), replace(JOB, prompt_tokens=16, rows=8)):
        assert plan(job=larger).needed_bytes["staged"] >= base
    long, short = (
        plan(job=replace(JOB, prompt_tokens=n)).stages["dit_step"].memory.buffers for n in (16, 8)
    )
    assert long > short


def test_what_just_fits_is_not_refused() -> None:
    for memory in ("resident", "staged"):
        found = plan(memory)
        check_fits(found, found.needed_bytes[memory])
        with pytest.raises(EngineError):
            check_fits(found, found.needed_bytes[memory] - 1)


def test_a_refusal_says_how_much_and_which_mode_would_fit() -> None:
    found = replace(plan(), needed_bytes={"resident": 9 * 10**9, "staged": 3 * 10**9})
    with pytest.raises(EngineError) as told:
        check_fits(found, 8 * 10**9)
    assert str(told.value) == (
        "tiny on orin: resident needs an estimated 9.00 GB, 8.00 GB are available; "
        "memory='staged' needs 3.00 GB"
    )
    for memory in ("resident", "staged"):
        with pytest.raises(EngineError, match=r"no mode fits: staged needs 3\.00 GB"):
            check_fits(replace(found, memory=memory), 2 * 10**9)


def test_no_memory_at_all_is_a_wrong_question() -> None:
    with pytest.raises(RequestError, match="must be positive"):
        check_fits(plan(), 0)


def test_nothing_to_hold_needs_the_context_alone() -> None:
    assert needed_bytes({}) == {"resident": CONTEXT_BYTES, "staged": CONTEXT_BYTES}


def test_every_stage_has_a_phase_and_large_ones_share_none() -> None:
    small = {"thinker_embed", "synchformer", "transcript", "signal"}
    large = sorted(PHASES.keys() - small)
    for i, one in enumerate(large):
        for other in large[i + 1 :]:
            assert not PHASES[one] & PHASES[other], (one, other)


def test_what_the_compiler_states_goes_beside_the_estimate() -> None:
    spec = EngineSpec(
        path="p", graph="g", base_type="float16",
        profiles=tuple(ProfileSpec(sizes={}, activation_bytes=n) for n in (7, 9, 8)),
        weight_bytes=1, build_s=1.0, build_peak_rss_bytes=1,
        rounded_products=0, fused_attentions=0, attentions=0, signature="",
    )  # fmt: skip
    found = make_memory_plan(MODEL, ORIN, JOB, memory="resident", engines={"dit_step": spec})
    assert found.compiled_activation == {"dit_step": 9}
    assert replace(found, compiled_activation={}) == plan()
