"""What a configuration says of guidance."""

from __future__ import annotations

import pytest

from omni_rt.errors import ExportError
from omni_rt.export.guidance import guidance_of


def test_a_configuration_tells_its_guidance_and_official_ones_mean_seven() -> None:
    assert guidance_of({}) == 7
    assert guidance_of({"guidance": 3}) == 3


@pytest.mark.parametrize("found", [None, True, "3", float("nan"), [3]])
def test_another_thing_is_one_error(found: object) -> None:
    with pytest.raises(ExportError, match="guidance must be a finite number"):
        guidance_of({"guidance": found})
