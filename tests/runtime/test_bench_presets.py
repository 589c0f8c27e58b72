"""One request for every preset, timed; and how many times as fast as faithful."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from omni_rt.bench_presets import PresetTime, bench_presets, faithful_of
from omni_rt.bundle import Bundle
from omni_rt.cli import app
from omni_rt.packaged import miniature
from omni_rt.presets import PRESETS

FAITHFUL = PresetTime(
    bundle="a", preset="faithful", plan="euler-100", passes=200, sampling_s=10.0, clip_s=11.0
)
STUDENT = PresetTime(
    bundle="b", preset="student-8", plan="student-8", passes=8, sampling_s=0.4, clip_s=1.1
)


def test_ratios_are_to_the_faithful_run_of_whichever_bundle() -> None:
    assert faithful_of([STUDENT, FAITHFUL]) == FAITHFUL
    assert faithful_of([STUDENT]) is None
    assert STUDENT.faster(FAITHFUL) == pytest.approx((25.0, 10.0))


def test_a_whole_request_takes_longer_than_its_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(PRESETS["faithful"], plan="euler-2")
    monkeypatch.setitem(PRESETS, "faithful", short)  # type: ignore[arg-type]
    found = bench_presets([Bundle.open(miniature())], runs=1, threads=1)[0]
    assert (found.preset, found.plan, found.passes) == ("faithful", "euler-2", 4)
    assert 0 < found.sampling_s < found.clip_s


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--presets", "--save", "times.json"), "--presets has no baselines"),
        (("--student", "b"), "--student is for --presets"),
    ],
)
def test_options_that_do_not_go_together_are_one_error(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = CliRunner().invoke(app, ["bench", str(tmp_path), *options])
    assert result.exit_code == 2
    assert message in result.stderr
