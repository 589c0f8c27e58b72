"""`omni-rt fit-solver`: what it prints, and what it says of a fit that was rejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from omni_rt.calibration import cli_solver, fit_solver
from omni_rt.calibration.fit_solver import FitOptions
from omni_rt.calibration.solver_fit import Outcome
from omni_rt.plans import Model, Plan, make_plan

_APP = typer.Typer()
cli_solver.commands(_APP)
_APP.command("other")(lambda: None)  # one command alone would be run without its name

Asked = list[FitOptions]


def outcome(*, taken: bool, error: float | None = 0.01) -> Outcome:
    model = Model(kind="fitted", digest="abc", precision="fp32")
    plan = Plan(
        name="ls3-8", rows=make_plan("ab3-8").rows, grid=make_plan("ab3-8").grid, model=model
    )
    return Outcome(
        steps=8,
        cfg_scale=7.0,
        plan=plan if taken else None,
        spacing="uniform" if taken else None,
        residuals=(),
        spacings={"uniform": error, "fitted": None},
        others={"euler-8": 0.3, "ab3-8": 0.05, "abm2-8": 0.04, "euler-100": 0.02},
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asked]:
    """Let the command find these outcomes; returns what it was asked for."""

    def finding(*outcomes: Outcome) -> Asked:
        seen: Asked = []

        def found(options: FitOptions, **_: Any) -> tuple[Outcome, ...]:
            seen.append(options)
            return outcomes

        monkeypatch.setattr(fit_solver, "fit_solver", found)
        return seen

    return finding


def run(*arguments: str) -> Any:
    return CliRunner().invoke(_APP, ["fit-solver", *arguments])


def test_options_become_what_is_fitted(asked: Callable[..., Asked]) -> None:
    seen = asked(outcome(taken=True))
    done = run(
        "b",
        "--steps",
        "16,8,8",
        "--cfg",
        "7",
        "--cfg-scale",
        "4",
        "--grid",
        "fitted",
        "--seed",
        "3",
    )
    assert done.exit_code == 0
    (options,) = seen
    assert options.settings.steps == (16, 8)
    assert options.settings.spacings == ("fitted",)
    assert (options.cfg_scales, options.seed, options.out) == ((7.0, 4.0), 3, None)


def test_errors_are_shown_beside_each_other(asked: Callable[..., Asked]) -> None:
    asked(outcome(taken=True))
    done = run("b", "--out", "copy")
    for shown in ("ls3-8, uniform grid", "0.0100", "taken", "diverged", "abm2-8", "euler-400"):
        assert shown in done.stdout
    assert "plans are in copy" in done.stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (0.05, "ls3-8 at guidance 7 is no better (0.0500): rejected, use abm2-8"),
        (None, "ls3-8 at guidance 7 diverged: rejected, use abm2-8"),
    ],
)
def test_a_rejected_fit_names_the_plan_to_use(
    asked: Callable[..., Asked], error: float | None, message: str
) -> None:
    asked(outcome(taken=False, error=error))
    done = run("b")
    assert done.exit_code == 1
    assert done.stderr.strip() == f"error: {message}"


def test_json_is_one_document(asked: Callable[..., Asked]) -> None:
    asked(outcome(taken=True))
    (found,) = json.loads(run("b", "--json").stdout)
    assert found["others"]["abm2-8"] == 0.04
    assert found["plan"]["name"] == "ls3-8"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", "eight"), "steps must be whole numbers such as 16,8, got 'eight'"),
        (("--steps", ""), "steps must be whole numbers"),
        (("--grid", "random"), "grid must be one of both, uniform, fitted, got 'random'"),
        ((), "no bundle at"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = run(str(tmp_path / "none"), *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
