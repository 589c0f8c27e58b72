"""Where the bounds of measurements come from."""

from __future__ import annotations

import pytest

from omni_rt.verify import FLOOR_FACTOR, FLOOR_ORIGIN, STAGE_BOUND, STAGE_ORIGIN, stage_bound


def test_a_well_conditioned_output_has_the_general_bound() -> None:
    for floor in (0.0, 1e-7, STAGE_BOUND / FLOOR_FACTOR):
        assert stage_bound(floor) == (STAGE_BOUND, STAGE_ORIGIN)


@pytest.mark.parametrize("floor", [1e-4, 5e-5])
def test_an_output_that_amplifies_rounding_is_held_to_its_own(floor: float) -> None:
    assert stage_bound(floor) == (FLOOR_FACTOR * floor, FLOOR_ORIGIN)
