"""Arithmetic counted from sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rt.flops import step_flops, unregrouped_flops

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
    found = step_flops(OFFICIAL, rows=2, attending=1, context=context)
    assert found == 2 * (linear + attention) + cross
    assert found == pytest.approx(178.7e9, rel=1e-3)


def test_a_deeper_model_costs_in_proportion() -> None:
    deep = replace(OFFICIAL, depth=36)
    for count in (
        lambda dims: step_flops(dims, rows=2, attending=1, context=300),
        lambda dims: unregrouped_flops(dims, rows=2),
    ):
        assert count(deep) == 36 * count(OFFICIAL)


def test_regrouping_only_saves() -> None:
    whole = OFFICIAL.context_tokens + OFFICIAL.transcript_tokens
    cached = step_flops(OFFICIAL, rows=2, attending=2, context=whole)
    # what is left is computing the keys and values of every context token in both rows
    assert unregrouped_flops(OFFICIAL, rows=2) - cached == 2 * whole * 2 * 2048 * 2 * 2048


def test_rows_that_do_not_attend_pay_for_no_context() -> None:
    short, long = (step_flops(OFFICIAL, rows=2, attending=0, context=c) for c in (1, 2304))
    assert short == long == 2 * step_flops(OFFICIAL, rows=1, attending=0, context=0)
