"""`omni-rt presets`: what is offered for how many passes, and what it was measured to be worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omni_rt import terminal
from omni_rt.bundle import Bundle
from omni_rt.cli_options import Json


def commands(app: typer.Typer) -> None:
    """Mount the command."""
    app.command()(presets)


def presets(
    bundles: Annotated[
        list[Path], typer.Argument(help="Bundles: a model's, and its students'.", metavar="BUNDLE…")
    ],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a Markdown table, for a README.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the presets that bundles offer: passes of the network, and errors if measured.

    omni-rt presets bundle bundle-student-8

    A preset's name is taken wherever a plan's is: --plan fast. Figures are those that
    `omni-rt measure-presets` wrote into the bundle: how far latents and sounds end from the
    teacher's in many steps at equal noise; how far the teacher's own sounds are apart with another
    seed; by how many points right answers fall; and in what a preset lies outside of what another
    seed changes. The default is the cheapest that lies outside in nothing.
    """
    with terminal.errors_reported():
        from omni_rt.preset_table import preset_rows, table_of

        with terminal.progress_bars() as bars:
            opened = [Bundle.open(b, progress=bars("verifying the bundle")) for b in bundles]
        if as_json:
            terminal.print_json([row for bundle in opened for row in preset_rows(bundle)])
        elif markdown:
            terminal.say(table_of(opened).rstrip("\n"))
        else:
            for bundle in opened:
                print_presets(bundle)


def print_presets(bundle: Bundle) -> None:
    """A bundle's presets as a table, and how they were measured."""
    from omni_rt.preset_table import COLUMNS, cells, measured_how, preset_rows

    title = f"presets of {bundle.manifest.name}"
    terminal.print_table(title, COLUMNS, [cells(row) for row in preset_rows(bundle)])
    terminal.say(measured_how(bundle))
