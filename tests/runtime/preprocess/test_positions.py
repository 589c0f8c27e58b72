"""Position ids of plain text (spec THINKER §3.4)."""

from __future__ import annotations

import numpy as np
import pytest

from omni_rt.preprocess.positions import text_positions


@pytest.mark.parametrize("length", [0, 1, 7])
def test_plain_text_counts_up_alike_on_all_three_axes(length: int) -> None:
    found = text_positions(length)
    assert found.shape == (3, 1, length)
    assert found.dtype == np.int64
    assert found.flags.writeable
    assert all(found[axis, 0].tolist() == list(range(length)) for axis in range(3))
