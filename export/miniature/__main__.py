"""`python -m omni_rt.export.miniature`: train the parts of the miniature, and measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from omni_rt import terminal
from omni_rt.export.miniature.gate import Share, check_gate, vae_shares
from omni_rt.export.miniature.train_vae import (
    NAME,
    new_vae,
    train_vae,
    vae_training,
    whole_clips,
)
from omni_rt.export.miniature.vae import normalise_latents
from omni_rt.export.miniature.weights import FOLDER, load_autoencoder, save_autoencoder
from omni_rt.export.reference.autoencoder import Oobleck

app = typer.Typer(
    help="Train the miniature: a small Audio-Omni on procedural sound. "
    "So far its autoencoder; the thinker and the transformer come next.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Threads = Annotated[int | None, typer.Option(help="Processor threads; all if not given.", min=1)]
Count = Annotated[int, typer.Option(help="Examples of each kind to measure.", min=1)]
Folder = Annotated[Path, typer.Option(help="Where states and logs are kept.")]


@app.command()
def train(
    part: Annotated[str, typer.Argument(help="vae")] = NAME,
    folder: Folder = Path("build/miniature"),
    steps: Annotated[int, typer.Option(help="Steps of the whole schedule.", min=1)] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of weights and examples.")] = 0,
    count: Count = 400,
    out: Annotated[Path, typer.Option(help="Folder for the trained part.")] = FOLDER,
    threads: Threads = None,
) -> None:
    """Train a part, or go on where an interrupted run stopped; then measure it and write it.

    A kill loses at most a minute. Nothing is written if the part misses its gate: for the
    autoencoder, that 95 % of the right sounds of every kind are right after it.
    """
    with terminal.errors_reported():
        if part != NAME:
            terminal.fail(f"unknown part {part!r}: expected {NAME}")
        if threads is not None:
            torch.set_num_threads(threads)
        training = vae_training(folder, steps=steps, seed=seed)
        if training.resume():
            terminal.note(f"going on at step {training.step}")
        train_vae(training, terminal.note)
        vae = training.average
        assert isinstance(vae, Oobleck)
        normalise_latents(vae, whole_clips(seed + 1, 128))
        command = f"python -m omni_rt.export.miniature train vae --steps {steps} --seed {seed}"
        hours = f"{training.elapsed_s / 3600:.2f}"
        written = save_autoencoder(vae, folder / "draft", {"command": command, "hours": hours})
        shares = vae_shares(load_autoencoder(new_vae(), written.parent), count=count)
        _print(shares)
        check_gate(shares)
        out.mkdir(parents=True, exist_ok=True)
        written.replace(out / written.name)
        terminal.say(f"{out / written.name} written")


@app.command()
def measure(
    folder: Annotated[Path, typer.Option(help="Folder of the trained parts.")] = FOLDER,
    count: Count = 400,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure the trained parts: the share of right results by kind, with 95 % intervals."""
    with terminal.errors_reported():
        if threads is not None:
            torch.set_num_threads(threads)
        shares = vae_shares(load_autoencoder(new_vae(), folder), count=count)
        if as_json:
            terminal.print_json(shares)
        else:
            _print(shares)


def _print(shares: dict[str, Share]) -> None:
    rows = [
        (kind, f"{100 * s.passed:.1f}", f"{100 * s.low:.1f} to {100 * s.high:.1f}", str(s.count))
        for kind, s in shares.items()
    ]
    terminal.print_table("through the autoencoder", ("kind", "right %", "95 %", "n"), rows)


if __name__ == "__main__":
    app()
