"""`omni-rt random-step`: what a compiler makes of a size, without a checkpoint of that size."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from omni_rt import terminal
from omni_rt.errors import ExportError


def commands(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("random-step")(random_step)


def random_step(
    config: Annotated[Path, typer.Option(help="The model's configuration (JSON).")],
    target: Annotated[str, typer.Option(help="What it is rounded for.")],
    out: Annotated[Path, typer.Option(help="The bundle to make: a new directory.")],
    depth: Annotated[
        int | None, typer.Option(help="Blocks, instead of the configuration's.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
) -> None:
    """Write a bundle of one stage, `dit_step`, with random rounded weights, to be compiled.

    omni-rt random-step --config Audio-Omni.json --depth 1 --target rtx4090 --out block

    omni-rt build block --target rtx4090 --out block-rtx4090
    """
    with terminal.errors_reported():
        for name in ("torch", "onnx_ir"):
            if find_spec(name) is None:
                raise ExportError(f"{name} is missing: pip install 'omni_rt[quantise]'")
        from omni_rt.calibration.random_step import write_random_step
        from omni_rt.export.config import read_config
        from omni_rt.targets import target_named

        sizes, _ = read_config(config)
        write_random_step(out, sizes, target_named(target), depth=depth, seed=seed)
        terminal.say(f"{out} written")
