"""`python -m omni_rt.export.miniature`: train the parts of the miniature, and measure them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer

from omni_rt import terminal
from omni_rt.export.miniature.gate import (
    ANSWER_FLOOR,
    VAE_FLOOR,
    Share,
    answer_shares,
    check_gate,
    vae_shares,
)
from omni_rt.export.miniature.thinker import TrainableThinker
from omni_rt.export.miniature.train_thinker import ThinkerTraining
from omni_rt.export.miniature.train_vae import (
    new_vae,
    train_vae,
    vae_training,
    whole_clips,
)
from omni_rt.export.miniature.training import Training
from omni_rt.export.miniature.vae import normalise_latents
from omni_rt.export.miniature.weights import (
    FOLDER,
    load_autoencoder,
    load_thinker,
    save_autoencoder,
    save_thinker,
)
from omni_rt.export.reference.autoencoder import Oobleck

app = typer.Typer(
    help="Train the miniature: a small Audio-Omni on procedural sound. "
    "So far its autoencoder and its thinker; the transformer comes next.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Threads = Annotated[int | None, typer.Option(help="Processor threads; all if not given.", min=1)]
Count = Annotated[int, typer.Option(help="Examples of each kind to measure.", min=1)]
Folder = Annotated[Path, typer.Option(help="Where states and logs are kept.")]
Out = Annotated[Path, typer.Option(help="Folder for the trained part.")]
Seed = Annotated[int, typer.Option(help="Seed of weights and examples.")]
_STEPS = {"vae": 4000, "thinker": 2600}


@app.command()
def train(
    part: Annotated[str, typer.Argument(help="vae or thinker")],
    folder: Folder = Path("build/miniature"),
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of the whole schedule; the part's own if not given.", min=1),
    ] = None,
    seed: Seed = 0,
    count: Count = 400,
    out: Out = FOLDER,
    threads: Threads = None,
) -> None:
    """Train a part, or go on where an interrupted run stopped; then measure it and write it.

    A kill loses at most a minute. Nothing is written if the part misses its gate: that 95 % of the
    right sounds of every kind are right after the autoencoder, and that the thinker answers 90 % of
    the questions of every kind exactly.
    """
    with terminal.errors_reported():
        if part not in _STEPS:
            terminal.fail(f"unknown part {part!r}: expected {' or '.join(_STEPS)}")
        if threads is not None:
            torch.set_num_threads(threads)
        wanted = _STEPS[part] if steps is None else steps
        command = f"python -m omni_rt.export.miniature train {part} --steps {wanted} --seed {seed}"
        make = _train_vae if part == "vae" else _train_thinker
        for file in make(folder, command, wanted, seed, count):
            out.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, out / file.name)
            terminal.say(f"{out / file.name} written")


def _train_vae(folder: Path, command: str, steps: int, seed: int, count: int) -> list[Path]:
    training = vae_training(folder, steps=steps, seed=seed)
    _tell_resumed(training)
    train_vae(training, terminal.note)
    vae = training.average
    assert isinstance(vae, Oobleck)
    normalise_latents(vae, whole_clips(seed + 1, 128))
    written = save_autoencoder(vae, folder / "draft", _facts(command, training))
    shares = vae_shares(load_autoencoder(new_vae(), written.parent), count=count)
    _print("through the autoencoder", shares)
    check_gate(shares, VAE_FLOOR)
    return [written]


def _train_thinker(folder: Path, command: str, steps: int, seed: int, count: int) -> list[Path]:
    run = ThinkerTraining(folder, steps=steps, seed=seed)
    _tell_resumed(run.training)
    run.run(terminal.note)
    thinker = run.training.average
    assert isinstance(thinker, TrainableThinker)
    written = save_thinker(thinker, folder / "draft", _facts(command, run.training))
    load_thinker(thinker, written.parent)  # measured is what was written, in bf16
    shares = answer_shares(run.ask, count=count)
    _print("answers", shares)
    check_gate(shares, ANSWER_FLOOR)
    return [written, folder / "tokenizer.json"]


def _tell_resumed(training: Training) -> None:
    if training.resume():
        terminal.note(f"going on at step {training.step}")


def _facts(command: str, training: Training) -> dict[str, str]:
    return {"command": command, "hours": f"{training.elapsed_s / 3600:.2f}"}


@app.command()
def measure(
    folder: Annotated[Path, typer.Option(help="Folder of the trained parts.")] = FOLDER,
    count: Count = 400,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure the trained autoencoder: the share of right sounds by kind, with 95 % intervals."""
    with terminal.errors_reported():
        if threads is not None:
            torch.set_num_threads(threads)
        shares = vae_shares(load_autoencoder(new_vae(), folder), count=count)
        if as_json:
            terminal.print_json(shares)
        else:
            _print("through the autoencoder", shares)


def _print(title: str, shares: Mapping[str, Share]) -> None:
    rows = [
        (kind, f"{100 * s.passed:.1f}", f"{100 * s.low:.1f} to {100 * s.high:.1f}", str(s.count))
        for kind, s in shares.items()
    ]
    terminal.print_table(title, ("kind", "right %", "95 %", "n"), rows)


if __name__ == "__main__":
    app()
