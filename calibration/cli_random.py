"""`omni-rt random-step`, `bench-step`: what compilers and engines make of a size."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from omni_rt import terminal
from omni_rt.cli_options import Config, Depth, Json, NewBundle, WeightsSeed
from omni_rt.errors import ExportError

if TYPE_CHECKING:
    from omni_rt.calibration.bench_step import StepBench


def commands(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command("random-step")(random_step)
    app.command("bench-step")(bench_step)


def _require_libraries(*names: str) -> None:
    for name in names:
        if find_spec(name) is None:
            raise ExportError(f"{name} is missing: pip install 'omni_rt[quantise]'")


def random_step(
    config: Config,
    target: Annotated[str, typer.Option(help="What it is rounded for.")],
    out: NewBundle,
    depth: Depth = None,
    seed: WeightsSeed = 0,
) -> None:
    """Write a bundle of one stage, `dit_step`, with random rounded weights, to be compiled.

    omni-rt random-step --config Audio-Omni.json --depth 1 --target rtx4090 --out block

    omni-rt build block --target rtx4090 --out block-rtx4090
    """
    with terminal.errors_reported():
        _require_libraries("torch", "onnx_ir")
        from omni_rt.calibration.random_step import write_random_step
        from omni_rt.export.config import read_config
        from omni_rt.targets import target_named

        sizes, _ = read_config(config)
        with terminal.stage_notes(quiet=False) as tell:
            write_random_step(
                out, sizes, target_named(target), depth=depth, seed=seed, progress=tell
            )
        terminal.say(f"{out} written")


def bench_step(
    config: Config,
    depth: Annotated[int, typer.Option(help="Blocks; one is measured besides.", min=1)] = 4,
    runs: Annotated[int, typer.Option(help="Turns of every engine.", min=1)] = 7,
    threads: Annotated[int, typer.Option(help="Processor threads of each engine.", min=1)] = 2,
    seed: Annotated[int, typer.Option(help="Of weights and inputs.", min=0)] = 0,
    outliers: Annotated[
        bool, typer.Option(help="Some channels of what blocks read are much larger.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Time a guided step in fp32, bf16 and INT8 in every engine of this processor, in one run.

    omni-rt bench-step --config Audio-Omni.json --depth 4

    Random weights of the configuration's width, rounded as real ones are; torch, ONNX Runtime and,
    where it is installed, OpenVINO take turns. Errors are against torch in fp32.
    """
    with terminal.errors_reported():
        _require_libraries("torch", "onnx_ir", "modelopt")
        from omni_rt.calibration.bench_step import bench_step as measure
        from omni_rt.export.config import read_config

        sizes, _ = read_config(config)
        with terminal.stage_notes(quiet=as_json) as tell:
            report = measure(
                sizes,
                depth=depth,
                runs=runs,
                threads=threads,
                seed=seed,
                outliers=outliers,
                progress=tell,
            )
        if as_json:
            terminal.print_json(report)
        else:
            _print(report)


def _print(report: StepBench) -> None:
    rows = [
        (
            rival.name,
            rival.computes,
            f"{1e3 * rival.time.p50_s:.0f}",
            f"{1e3 * rival.time.min_s:.0f}",
            f"{1e3 * rival.time.p50_s / report.depth:.0f}",
            f"{rival.ratio:.2f}",
            f"{rival.block_rel_l2:.2g}",
            f"{rival.stack_rel_l2:.2g}",
        )
        for rival in report.rivals
    ]
    columns = (
        "", "other", "p50 ms", "min ms", "a block", "times", "error, 1 block",
        f"{report.depth} blocks",
    )  # fmt: skip
    has = ", ".join(report.instructions) or "none of the known instruction sets"
    terminal.print_table(
        f"guided step of width {report.width}, {report.depth} blocks, 2 × {report.tokens} tokens, "
        f"{report.threads} threads of {report.device} ({has}); errors are relative L2",
        columns,
        rows,
    )
    for name, figure in report.figures.items():
        met = "met" if figure.passed else "MISSED"
        side = "at least" if figure.at_least else "at most"
        terminal.say(f"INT8: {figure.value:.3g} {name}, {side} {figure.bound:.3g}: {met}")
