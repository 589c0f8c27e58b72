"""The largest value of a folded stage: nothing that its products met is larger."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from omni_rt.calibration.groups import Group
from omni_rt.calibration.magnitudes import largest_value
from tests.calibration.small import noise, random_factor, range_of, smoothing

WIDTH = 16


@given(st.integers(0, 200))
def test_nothing_that_a_folded_product_reads_or_puts_out_is_larger(seed: int) -> None:
    """Two matrices in a row, the second's factor divided out of the first's rows."""
    first, second = noise(WIDTH, WIDTH, seed=seed), noise(WIDTH, WIDTH, seed=seed + 1)
    rows = 5 * noise(32, WIDTH, seed=seed + 2)
    between = rows @ first.T
    after = between @ second.T
    group = Group(matrices=("second",), divided=("first",))
    chosen = smoothing(group, random_factor(group, WIDTH, seed=seed))
    layers = {
        "first": range_of(rows, output_max=float(between.abs().max())),
        "second": range_of(between, output_max=float(after.abs().max())),
    }
    found = largest_value(layers, [chosen], [chosen])
    folded = between / chosen.factor
    assert found >= max(float(x.abs().max()) for x in (rows, folded, after)) * (1 - 1e-6)


def test_without_factors_it_is_the_largest_that_was_observed() -> None:
    layer = range_of(torch.tensor([[1.0, -7.0]]), output_max=3.0)
    assert largest_value({"w": layer}, [], []) == 7.0
    assert largest_value({}, [], []) == 0.0


@given(st.integers(0, 200))
def test_products_of_what_is_centred_may_be_larger_than_those_observed(seed: int) -> None:
    matrix, rows = noise(WIDTH, WIDTH, seed=seed), noise(32, WIDTH, seed=seed + 1)
    centre = 4 * noise(WIDTH, seed=seed + 2)
    products = rows @ matrix.T
    seen = range_of(rows, output_max=float(products.abs().max()))
    moved = float((matrix @ centre).abs().max())
    own = replace(smoothing(Group(matrices=("w",), divided=()), torch.ones(WIDTH)), moved=moved)
    less = (rows - centre) @ matrix.T
    assert largest_value({"w": seen}, [own], [own]) >= float(less.abs().max()) * (1 - 1e-6)
