"""Which cases a solver is fitted to."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_rt import miniature
from omni_rt.bundle import Bundle
from omni_rt.calibration.solver_cases import solver_cases
from omni_rt.errors import ExportError


@pytest.fixture(scope="module")
def packaged() -> Bundle:
    return Bundle.open(miniature())


def test_cases_are_of_every_task_and_held_out_ones_are_others(
    packaged: Bundle, tmp_path: Path
) -> None:
    found = solver_cases(packaged, fitted=12, held_out=7, seed=3, audio=None, folder=tmp_path)
    assert (len(found.fitted), len(found.held_out)) == (12, 7)
    tasks = {one.task for one in found.fitted}
    assert {"T2A", "T2M", "V2A", "V2M", "TTS", "VC", "Add", "Remove", "Extract"} < tasks
    assert not {one.seed for one in found.fitted} & {one.seed for one in found.held_out}


@pytest.mark.parametrize(("fitted", "held_out"), [(0, 8), (8, 0), (-1, 1), (10**11, 8)])
def test_no_cases_or_too_many_are_one_error(
    packaged: Bundle, tmp_path: Path, fitted: int, held_out: int
) -> None:
    with pytest.raises(ExportError, match="takes 1 to 256"):
        solver_cases(
            packaged, fitted=fitted, held_out=held_out, seed=0, audio=None, folder=tmp_path
        )
