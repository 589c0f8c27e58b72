"""`python -m omni_rt.export.miniature`: train the parts of the miniature, and measure them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer

from omni_rt import terminal
from omni_rt.cli_options import Json, Overwrite, Threads
from omni_rt.export.build import export_bundle
from omni_rt.export.miniature import checkpoint, parts
from omni_rt.export.miniature.gate import check_gate
from omni_rt.export.miniature.parts import Part
from omni_rt.export.miniature.share import Share

app = typer.Typer(
    help="Train the miniature: a small Audio-Omni on procedural sound, part by part: "
    "vae, thinker, synchformer, then transformer, which needs the other three.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

PartName = Annotated[str, typer.Argument(help=" or ".join(parts.PARTS), metavar="PART")]
Count = Annotated[int, typer.Option(help="Examples of each kind to measure.", min=1)]
States = Annotated[Path, typer.Option(help="Where states and logs are kept.")]
Checkpoint = Annotated[Path, typer.Option(help="The checkpoint's folder.")]
Seed = Annotated[int, typer.Option(help="Seed of weights and examples.")]
Floor = Annotated[
    float | None,
    typer.Option(help="Gate: the least share of right results. The part's own if not given."),
]
Steps = Annotated[
    int | None,
    typer.Option(help="Steps of the whole schedule; the part's own if not given.", min=1),
]


@app.callback()
def _fast_near_zero() -> None:
    """Numbers near 0 cost a processor a hundred times more: threads that come are to flush them."""
    torch.set_flush_denormal(True)


@app.command()
def train(
    part: PartName,
    states: States = Path("build/miniature"),
    out: Checkpoint = checkpoint.FOLDER,
    steps: Steps = None,
    seed: Seed = 0,
    count: Count = 400,
    floor: Floor = None,
    threads: Threads = None,
    begin_with: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint's folder whose transformer to begin with instead of random weights, "
            "to practise edits mostly. "
            "A run that was interrupted goes on from its own state all the same."
        ),
    ] = None,
) -> None:
    """Train a part, or go on where an interrupted run stopped; measure it; put it in its place.

    The autoencoder is fitted at once; of the others a kill loses at most a minute. The checkpoint
    stays as it was if the part misses its gate: that 95 % of the right sounds of every kind are
    right after the autoencoder, that the thinker answers 90 % of the questions of every kind
    exactly, and that the Synchformer tells the colours of 95 % of the videos. The transformer has
    none: `omni-rt score` measures it.
    """
    with terminal.errors_reported():
        run = _run(part, states, out, steps, seed, threads)
        if begin_with is not None and run.step == 0:
            run.begin_with(begin_with, terminal.note)
        run.train(terminal.note)
        _finish(run, out, count, floor, _command(run))


@app.command()
def put(
    part: PartName,
    states: States = Path("build/miniature"),
    out: Checkpoint = checkpoint.FOLDER,
    steps: Steps = None,
    seed: Seed = 0,
    count: Count = 400,
    floor: Floor = None,
    threads: Threads = None,
) -> None:
    """Put the moving average of a training that goes on, or stopped early, into the checkpoint."""
    with terminal.errors_reported():
        run = _run(part, states, out, steps, seed, threads)
        if run.step == 0:
            terminal.fail(f"no state of {part} in {states}: train it first")
        _finish(run, out, count, floor, f"{_command(run)}, stopped at {run.step}")


def _command(run: Part) -> str:
    steps = f" --steps {run.steps}" if run.steps else ""
    begun = " --begin-with CHECKPOINT" if run.before else ""
    return f"train {run.name}{steps} --seed {run.seed}{begun}"


def _run(
    part: str, states: Path, out: Path, steps: int | None, seed: int, threads: int | None
) -> Part:
    kind = _kind(part)
    if threads is not None:
        torch.set_num_threads(threads)
    run = kind(states, out, steps=steps or kind.default_steps, seed=seed)
    if run.resume():
        terminal.note(f"{part}: step {run.step}")
    return run


def _kind(part: str) -> type[Part]:
    kind = parts.PARTS.get(part)
    if kind is None:
        terminal.fail(f"unknown part {part!r}: expected {' or '.join(parts.PARTS)}")
    return kind


def _finish(run: Part, out: Path, count: int, floor: float | None, told: str) -> None:
    """Write the part beside the others in a draft, measure it there, and put it in its place."""
    least = run.floor if floor is None else floor
    if floor is not None:
        told += f" --floor {floor:g}"
    facts = {
        "command": f"python -m omni_rt.export.miniature {told}",
        "hours": f"{run.hours:.2f}",
        **({"before": run.before} if run.before else {}),
    }
    draft = run.states / f"{run.name}.draft"  # parts may be trained side by side
    shutil.rmtree(draft, ignore_errors=True)
    if out.is_dir():
        checkpoint.copy_files(out, draft)
    run.put(draft, facts)
    shares = run.measured(draft, count, terminal.note)
    _print(run.measure, shares)
    check_gate(shares, least)
    checkpoint.copy_files(draft, out)
    terminal.say(f"{run.name} is in {out}")


@app.command()
def measure(
    part: PartName,
    out: Checkpoint = checkpoint.FOLDER,
    count: Count = 400,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure a part of the checkpoint: the share of right results by kind, with 95 % intervals.

    The transformer is measured in a bundle, by `omni-rt score`.
    """
    with terminal.errors_reported():
        kind = _kind(part)
        if threads is not None:
            torch.set_num_threads(threads)
        shares = kind.measured(out, count, terminal.note)
        if not shares:
            terminal.fail(f"the {part} is measured in a bundle, by omni-rt score")
        if as_json:
            terminal.print_json(shares)
        else:
            _print(kind.measure, shares)


UNROUNDED = Path("build/miniature/unrounded")


@app.command()
def bundle(
    out: Annotated[Path, typer.Option(help="The bundle to write.")] = UNROUNDED,
    folder: Checkpoint = checkpoint.FOLDER,
    student: Annotated[
        Path | None,
        typer.Option(
            help="A student of the checkpoint, as `omni-rt distill` wrote it, to export instead."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Export the checkpoint, unrounded: what the packaged bundle is quantised from.

    omni-rt quantise build/miniature/unrounded --target cpu --out miniature/bundle --overwrite

    python -m omni_rt.export.miniature bundle --student miniature/student-8/checkpoint --out student
    """
    with terminal.errors_reported():
        out.parent.mkdir(parents=True, exist_ok=True)
        export_bundle(
            checkpoint.export_options(folder, out, student=student, overwrite=overwrite),
            progress=terminal.note,
        )
        terminal.say(f"{out} written")


def _print(title: str, shares: Mapping[str, Share]) -> None:
    rows = [
        (kind, f"{100 * s.passed:.1f}", f"{100 * s.low:.1f} to {100 * s.high:.1f}", str(s.count))
        for kind, s in shares.items()
    ]
    if rows:
        terminal.print_table(title, ("kind", "right %", "95 %", "n"), rows)


if __name__ == "__main__":
    app()
