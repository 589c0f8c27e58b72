"""Arithmetic counted from sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rt.flops import step_flops, unregrouped_flops
from omni_rt.manifest import Dims

from .tiny_bundle import DIMS

OFFICIAL = replace(
    DIMS,
    width=2048,
    depth=1,
    heads=32,
    head_width=64,
    latent_frames=236,
    prepend_tokens=364,
    context_tokens=2048,
    transcript_tokens=256,
)


def test_a_guided_step_of_official_size_is_179_gflop_a_block() -> None:
    # by hand: a matmul [n, a]·[a, b] is 2·n·a·b
    d, n, context = 2048, 600, 336
    linear = 2 * n * d * d * (3 + 1 + 8 + 4)  # qkv, out, gated feed-forward in and out
    attention = 2 * 2 * n * n * d
    cross = 2 * n * d * d * 2 + 2 * 2 * n * context * d
    found = _block_of(OFFICIAL, rows=2, attending=1, context=context)
    assert found == 2 * (linear + attention) + cross
    assert found == pytest.approx(178.7e9, rel=1e-3)


def _block_of(dims: Dims, **step: int) -> int:
    """What each block but the last costs: the difference that one more makes."""
    return step_flops(replace(dims, depth=2), **step) - step_flops(dims, **step)


def test_the_last_block_is_spared_what_nothing_reads() -> None:
    # by hand: keys and values of all 600 tokens and queries, 236 of which are asked and go on
    d, n, kept, context = 2048, 600, 236, 336
    linear = 2 * n * d * d * 3 + 2 * kept * d * d * (1 + 8 + 4)
    attention = 2 * 2 * kept * n * d
    cross = 2 * kept * d * d * 2 + 2 * 2 * kept * context * d
    found = step_flops(OFFICIAL, rows=2, attending=1, context=context)
    assert found == 2 * (linear + attention) + cross


def test_a_deeper_model_costs_in_proportion() -> None:
    step = {"rows": 2, "attending": 1, "context": 300}
    deep = replace(OFFICIAL, depth=36)
    last = step_flops(OFFICIAL, **step)
    assert step_flops(deep, **step) == 35 * _block_of(OFFICIAL, **step) + last
    assert unregrouped_flops(deep, rows=2) == 36 * unregrouped_flops(OFFICIAL, rows=2)


def test_regrouping_only_saves() -> None:
    whole = OFFICIAL.context_tokens + OFFICIAL.transcript_tokens
    cached = _block_of(OFFICIAL, rows=2, attending=2, context=whole)
    # what is left is computing the keys and values of every context token in both rows
    assert unregrouped_flops(OFFICIAL, rows=2) - cached == 2 * whole * 2 * 2048 * 2 * 2048


def test_rows_that_do_not_attend_pay_for_no_context() -> None:
    short, long = (step_flops(OFFICIAL, rows=2, attending=0, context=c) for c in (1, 2304))
    assert short == long == 2 * step_flops(OFFICIAL, rows=1, attending=0, context=0)
