"""Which case's calls a quantised bundle carries."""

from __future__ import annotations

from typing import cast

import numpy as np

from omni_rt.calibration.parity import chosen_case
from omni_rt.calibration.recording import Recorded, Recorder
from omni_rt.calibration.trajectories import Trajectory


class Kept:
    """Calls by stage: the case of each, and the numbers it carries."""

    def __init__(self, **calls: dict[str, int]) -> None:
        self._calls = calls

    def calls(self, stage: str) -> list[Recorded]:
        return [
            Recorded(case=case, arrays={"x": np.zeros(size, np.float32)})
            for case, size in self._calls[stage].items()
        ]


def test_it_is_the_shortest_of_those_that_ran_every_stage() -> None:
    """Of requests of words alone, the first runs `signal` for all."""
    kept = Kept(context={"words": 3, "more words": 1, "clip": 4}, signal={"words": 9, "clip": 9})
    exact = dict.fromkeys(("words", "more words", "clip"), cast("Trajectory", None))
    assert chosen_case(cast("Recorder", kept), exact) == "words"
    del exact["words"]
    assert chosen_case(cast("Recorder", kept), exact) == "clip"
