"""Distances: definitions, and what is not finite."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from omni_rt import strict_json
from omni_rt.manifest import Measurement
from omni_rt.metrics import cosine, max_abs, measure, rel_l2, snr_db

some = arrays.arrays(np.float64, 7, elements=st.floats(-100, 100).filter(lambda v: abs(v) > 1e-3))


@given(some, st.floats(1e-3, 1.0))
def test_rel_l2_and_snr_are_two_views_of_one_number(reference: np.ndarray, error: float) -> None:
    value = reference * (1 + error)
    assert math.isclose(rel_l2(value, reference), error, rel_tol=1e-9)
    assert math.isclose(snr_db(value, reference), -20 * math.log10(error), abs_tol=1e-6)


@given(some)
def test_equal_arrays_are_at_distance_zero(value: np.ndarray) -> None:
    assert rel_l2(value, value) == 0
    assert max_abs(value, value) == 0
    assert snr_db(value, value) == math.inf
    assert math.isclose(cosine(value, value), 1)


@given(some, st.floats(0.1, 10))
def test_cosine_ignores_size_and_sees_direction(value: np.ndarray, scale: float) -> None:
    assert math.isclose(cosine(scale * value, value), 1)
    assert math.isclose(cosine(-scale * value, value), -1)


def test_cosine_of_orthogonal_vectors_is_zero() -> None:
    assert cosine([1, 0], [0, 1]) == 0


def test_zeros_are_alike_and_unlike_anything_else() -> None:
    assert rel_l2([0, 0], [0, 0]) == 0
    assert cosine([0, 0], [0, 0]) == 1
    assert rel_l2([0, 1], [0, 0]) == math.inf
    assert cosine([0, 1], [0, 0]) == 0


def test_max_abs_is_the_largest_difference() -> None:
    assert max_abs([1, -5, 2], [1, -2, 4]) == 3
    assert max_abs([], []) == 0


def test_small_types_are_compared_in_double_precision() -> None:
    a, b = np.array([200, 0], np.uint8), np.array([0, 200], np.uint8)
    assert max_abs(a, b) == 200
    large = np.array([60000.0], np.float16)
    assert max_abs(large, -large) == 120_000  # beyond fp16


def test_the_shapes_of_a_graph_and_its_reference_may_differ_by_axes_of_one() -> None:
    assert rel_l2(np.ones((1, 3)), np.ones(3)) == 0


@pytest.mark.parametrize("distance", [rel_l2, max_abs])
def test_arrays_of_different_sizes_are_not_compared(distance: object) -> None:
    with pytest.raises(ValueError, match=r"size|shape"):
        distance([1.0], [1.0, 1.0, 1.0])  # type: ignore[operator]


def test_a_measurement_passes_up_to_its_bound() -> None:
    assert measure([1.5], [1.0], bound_rel_l2=0.5, origin="o").passed
    assert not measure([1.51], [1.0], bound_rel_l2=0.5, origin="o").passed


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_passes_and_survives_json(value: float) -> None:
    found = measure([1.0, value], [1.0, 2.0], bound_rel_l2=1e300, origin="o")
    assert not found.passed
    raw = json.loads(json.dumps(strict_json.to_json(found), allow_nan=False))
    assert strict_json.parse(Measurement, raw, where="m") == found


def test_an_exact_measurement_survives_json() -> None:
    found = measure([1.0, 2.0], [1.0, 2.0], bound_rel_l2=0.0, origin="o")
    assert found.passed
    assert found.snr_db is None
    raw = json.loads(json.dumps(strict_json.to_json(found), allow_nan=False))
    assert strict_json.parse(Measurement, raw, where="m") == found


@pytest.mark.parametrize("reference", [[0.0, 0.0], [math.nan, 1.0]])
def test_a_failed_measurement_survives_json_whatever_the_reference(reference: list[float]) -> None:
    found = measure([1.0, 2.0], reference, bound_rel_l2=1.0, origin="o")
    assert not found.passed
    json.dumps(strict_json.to_json(found), allow_nan=False)
