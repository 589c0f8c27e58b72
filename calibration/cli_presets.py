"""`omni-rt measure-presets`: what each preset is worth, and which is the bundle's default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def commands(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("measure-presets")(measure_presets)


def measure_presets(
    bundle: BundleArgument,
    teacher: Annotated[
        Path | None, typer.Option(help="A student's teacher: the bundle that it is held to.")
    ] = None,
    cfg_scale: Annotated[
        float | None,
        typer.Option(*GUIDANCE, help="Guidance, of the teacher; its own if not given."),
    ] = None,
    cases: Annotated[
        int, typer.Option(help="Requests whose distances are measured, spread over all tasks.")
    ] = 12,
    count: Annotated[
        int,
        typer.Option(
            help="Examples of each kind to score, where the model is of the miniature's tasks; 0: "
            "none."
        ),
    ] = 400,
    kinds: Annotated[
        str | None, typer.Option(help="Only these kinds, comma-separated; all if not given.")
    ] = None,
    reference: Annotated[str, typer.Option(help="What counts as exact.")] = "euler-400",
    seed: CasesSeed = 0,
    audio: CasesAudio = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps what was scored, to go on with; beside the bundle if not given."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a copy with the figures; else they go into BUNDLE.")
    ] = None,
    overwrite: Overwrite = False,
    engine: EngineName = AUTO,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure the presets that a bundle offers, and make the cheapest good one its default.

    omni-rt measure-presets bundle

    omni-rt measure-presets bundle-student-8 --teacher bundle --scores bundle.scores

    Every preset's latents and sounds are compared with the teacher's in many steps at equal noise;
    where the model has right answers, they are counted, example by example, beside the faithful
    preset's. The yardstick is what another seed changes in the teacher: the cheapest preset that
    changes no more is the default, in sessions and commands that are given no plan. Figures hold
    for these graphs and plans: fit solvers and quantise before.

    It takes long: faithful samples every example twice. A run that was cut off goes on with the
    scores in --scores, and a student's takes its teacher's from there.
    """
    with terminal.errors_reported():
        from omni_rt.bundle import Bundle
        from omni_rt.calibration.measure_presets import MeasureOptions
        from omni_rt.calibration.measure_presets import measure_presets as measure
        from omni_rt.cli_presets import print_presets

        options = MeasureOptions(
            bundle=bundle,
            teacher=teacher,
            out=out,
            cfg_scale=cfg_scale,
            reference=reference,
            cases=cases,
            count=count,
            kinds=kinds,
            seed=seed,
            audio=audio,
            scores=scores,
            engine=engine,
            threads=threads,
            overwrite=overwrite,
        )
        record = measure(options, progress=terminal.note)
        if as_json:
            terminal.print_json(record)
        else:
            print_presets(Bundle.open(bundle if out is None else out))
