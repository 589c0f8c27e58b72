"""`omni-rt fit-solver`: as good in few steps as in a hundred, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from omni_rt import terminal
from omni_rt.cli_options import (
    GUIDANCE,
    BundleArgument,
    CasesAudio,
    CasesSeed,
    EngineName,
    Json,
    Overwrite,
    Threads,
)
from omni_rt.engines.registry import AUTO
from omni_rt.errors import RequestError

if TYPE_CHECKING:
    from omni_rt.calibration.solver_fit import Outcome
    from omni_rt.plan_file import Spacing

Grids = Literal["both", "uniform", "fitted"]


def commands(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("fit-solver")(fit_solver)


def fit_solver(
    bundle: BundleArgument,
    steps: Annotated[
        str, typer.Option(help="Numbers of steps, each a plan ls3-N; separated by commas.")
    ] = "16,8",
    cfg_scales: Annotated[
        list[float] | None,
        typer.Option(
            *GUIDANCE,
            help="Guidance to fit at, repeatable; the bundle's own if not given. One plan holds "
            "rows for several.",
        ),
    ] = None,
    grid: Annotated[
        str,
        typer.Option(
            help="Times: uniform; fitted, closer where the velocity bends; or both, of which "
            "the better is taken."
        ),
    ] = "both",
    refine: Annotated[
        int,
        typer.Option(
            help="Rounds in which all weights and times are moved together to where the last row "
            "ends nearest; not with --grid uniform. The longest part; 0 leaves it out.",
            min=0,
        ),
    ] = 1,
    trajectories: Annotated[
        int, typer.Option(help="Cases to fit to, spread over all tasks; 8 to 64 are sensible.")
    ] = 16,
    held_out: Annotated[int, typer.Option(help="Cases of their own to judge by.")] = 8,
    fine_steps: Annotated[
        int, typer.Option(help="AB3 steps of the trajectories that are fitted to.", min=1)
    ] = 64,
    reference: Annotated[
        str, typer.Option(help="What counts as exact on the held-out cases.")
    ] = "euler-400",
    seed: CasesSeed = 0,
    audio: CasesAudio = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a copy with the plans; else they go into BUNDLE.")
    ] = None,
    overwrite: Overwrite = False,
    engine: EngineName = AUTO,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Fit solvers of few steps to a bundle's own engines (LS3), and keep them as its plans.

    omni-rt fit-solver bundle --steps 16,8 --cfg 7

    omni-rt generate T2A --prompt rain -b bundle --plan ls3-16 -o rain.wav

    Requests of every task are followed in many fine steps; then each of the few steps gets four
    weights, by least squares, that lead where the fine ones do. Nothing is trained. It runs on the
    engines that the bundle has, so rounding is fitted to as well: fit after quantising. The rows
    hold for this model in this precision, and are refused elsewhere.

    What is printed is how far latents end from the reference's at equal noise, on cases that
    nothing was fitted to: ls3-N beside analytic plans of as many steps and beside euler-100. A fit
    that diverges, or that an analytic plan beats, is rejected: the exit status is 1 and the error
    names the plan to use instead.
    """
    with terminal.errors_reported():
        from omni_rt.calibration.fit_solver import FitOptions
        from omni_rt.calibration.fit_solver import fit_solver as fit
        from omni_rt.calibration.solver_fit import FitSettings

        options = FitOptions(
            bundle=bundle,
            out=out,
            cfg_scales=tuple(cfg_scales or ()),
            settings=FitSettings(
                steps=_counts(steps),
                spacings=_spacings(grid),
                refinements=refine,
                fine_steps=fine_steps,
                reference=reference,
            ),
            trajectories=trajectories,
            held_out=held_out,
            seed=seed,
            audio=audio,
            engine=engine,
            threads=threads,
            overwrite=overwrite,
        )
        outcomes = fit(options, progress=terminal.note)
        if as_json:
            terminal.print_json(outcomes)
        else:
            for outcome in outcomes:
                _print(outcome, reference)
        rejected = [_rejection(o) for o in outcomes if o.plan is None]
        if len(rejected) < len(outcomes):
            terminal.note(f"plans are in {bundle if out is None else out}")
        if rejected:
            terminal.missed("; ".join(rejected))


def _counts(steps: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in steps.split(",")))
    except ValueError:
        raise RequestError(f"steps must be whole numbers such as 16,8, got {steps!r}") from None


def _spacings(grid: str) -> tuple[Spacing, ...]:
    if grid not in get_args(Grids):
        raise RequestError(f"grid must be one of {', '.join(get_args(Grids))}, got {grid!r}")
    return ("uniform", "fitted") if grid == "both" else (grid,)  # type: ignore[return-value]


def _print(outcome: Outcome, reference: str) -> None:
    own = {f"{outcome.name}, {spacing} grid": e for spacing, e in outcome.spacings.items()}
    taken = f"{outcome.name}, {outcome.spacing} grid"
    rows = [
        (name, "diverged" if error is None else f"{error:.4f}", "taken" if name == taken else "")
        for name, error in {**own, **outcome.others}.items()
    ]
    title = f"guidance {outcome.cfg_scale:g}: distance from {reference}"
    terminal.print_table(title, ("plan", "rel. L2", ""), rows)


def _rejection(outcome: Outcome) -> str:
    why = "diverged" if outcome.error is None else f"is no better ({outcome.error:.4f})"
    instead = (
        f"use {outcome.fallback}"
        if outcome.fallback is not None
        else "and so do all plans of as many steps: use more steps"
    )
    return f"{outcome.name} at guidance {outcome.cfg_scale:g} {why}: rejected, {instead}"
