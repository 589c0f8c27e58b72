"""The exporter's commands on `omni-rt`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from omni_rt import cli_plan, terminal
from omni_rt.architecture import Architecture
from omni_rt.cli_options import (
    BundleArgument,
    Config,
    Depth,
    EngineName,
    GpuNumber,
    Json,
    NewBundle,
    Overwrite,
    Stages,
    WeightsSeed,
)
from omni_rt.engines.registry import AUTO
from omni_rt.errors import ExportError, RequestError
from omni_rt.export.miniature import cli as miniature_cli


def commands(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(export)
    app.command()(standin)
    app.command("random-checkpoint")(random_checkpoint)
    app.command("bench-reference")(bench_reference)
    app.command("bench-cuda")(bench_cuda)
    miniature_cli.commands(app)
    cli_plan.commands(app, count_configured=_count_configured)


def _count_configured(config: Path, qwen_config: Path | None) -> Architecture:
    _require_torch()
    from omni_rt.export.configured import configured_architecture

    return configured_architecture(config, qwen_config)


def _require_torch() -> None:
    try:
        import onnx_ir  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise ExportError(f"{error.name} is missing: pip install 'omni_rt[export]'") from error


def export(
    config: Config,
    checkpoint: Annotated[Path, typer.Option(help="model.ckpt or model.safetensors.")],
    out: NewBundle,
    qwen: Annotated[
        Path | None,
        typer.Option(help="Local Hugging Face folder of Qwen2.5-Omni-3B (tokenizer, config)."),
    ] = None,
    upstream: Annotated[
        Path | None,
        typer.Option(help="Your checkout of Audio-Omni: its prompts and vocabulary are read."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompt templates (.py or .json) instead of --upstream's.")
    ] = None,
    vocab: Annotated[
        Path | None, typer.Option(help="Character vocabulary instead of --upstream's.")
    ] = None,
    synchformer: Annotated[
        Path | None,
        typer.Option(help="MMAudio's synchformer_state_dict.pth; V2A and V2M need it."),
    ] = None,
    synchformer_heads: Annotated[
        int, typer.Option(help="Attention heads of that Synchformer: its file does not say.", min=1)
    ] = 12,
    stages: Stages = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="fp32|half",
            help="How weights are stored; half: in 16 bits, without loss where they are bf16.",
        ),
    ] = "fp32",
    name: Annotated[str, typer.Option(help="The bundle's name.")] = "audio-omni",
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights, if not the official one.")
    ] = None,
    overwrite: Overwrite = False,
    certify_steps: Annotated[
        int, typer.Option(help="Guided steps of the end-to-end comparison.", min=1)
    ] = 4,
    workers: Annotated[int, typer.Option(help="Processes that trace graphs.", min=1)] = min(
        2, os.cpu_count() or 1
    ),
    as_json: Json = False,
) -> None:
    """Turn a checkpoint in the official format into a bundle.

    omni-rt export --config Audio-Omni.json --checkpoint model.ckpt --qwen Qwen2.5-Omni-3B
    --upstream Audio-Omni --synchformer synchformer_state_dict.pth --out bundle
    """
    with terminal.errors_reported():
        _require_torch()
        from omni_rt.export.build import export_bundle
        from omni_rt.export.sources import OFFICIAL_LICENCE, ExportOptions

        options = ExportOptions(
            config=config,
            checkpoint=checkpoint,
            out=out,
            qwen=qwen,
            upstream=upstream,
            prompts=prompts,
            vocabulary=vocab,
            synchformer=synchformer,
            synchformer_heads=synchformer_heads,
            stages=None if stages is None else tuple(s for s in stages.split(",") if s),
            name=name,
            licence=OFFICIAL_LICENCE if licence is None else licence,
            overwrite=overwrite,
            certify_steps=certify_steps,
            workers=workers,
            weights=weights,
        )
        with terminal.stage_notes(quiet=as_json) as tell:
            export_bundle(options, progress=tell)
        from omni_rt.bench import peak_rss_bytes
        from omni_rt.bundle import Bundle
        from omni_rt.manifest import read_manifest

        Bundle(out, read_manifest(out)).require_certificate()
        if synchformer is None and stages is None:
            terminal.note("no --synchformer: this bundle makes no sound for video (V2A, V2M)")
        peak, worker = peak_rss_bytes(), peak_rss_bytes(children=True)
        if as_json:
            facts = {"bundle": out, "peak_rss_bytes": peak, "largest_worker_rss_bytes": worker}
            terminal.print_json(facts)
            return
        terminal.say(
            f"{out} written; peak RSS {peak / 1e9:.1f} GB, "
            f"of the largest tracing worker {worker / 1e9:.1f} GB"
        )


def standin(
    out: Annotated[Path, typer.Option(help="A new folder.")],
    seed: WeightsSeed = 0,
) -> None:
    """Write a small stand-in for the official files: random weights, everything else real."""
    with terminal.errors_reported():
        _require_torch()
        from omni_rt.export.standin import LICENCE, SYNCHFORMER_HEADS, write_standin

        write_standin(out, seed=seed)
        terminal.say(
            f"{out} written. Next:\n"
            f"omni-rt export --config {out}/config.json --checkpoint {out}/model.safetensors "
            f"--qwen {out}/qwen --upstream {out}/upstream "
            f"--synchformer {out}/synchformer.safetensors "
            f"--synchformer-heads {SYNCHFORMER_HEADS} --licence {LICENCE!r} --out BUNDLE"
        )


def random_checkpoint(
    config: Config,
    out: Annotated[Path, typer.Option(help="A .safetensors file to write.")],
    depth: Depth = None,
    qwen: Annotated[
        Path | None,
        typer.Option(
            help="A thinker too, of this Hugging Face folder's sizes (config, tokenizer)."
        ),
    ] = None,
    thinker_layers: Annotated[
        int | None, typer.Option(help="Its layers, instead of the configuration's.", min=2)
    ] = None,
    half: Annotated[bool, typer.Option("--bf16", help="Store bf16 instead of fp32.")] = False,
    seed: WeightsSeed = 0,
    outliers: Annotated[
        bool, typer.Option("--outliers", help="Some channels of what blocks read are large.")
    ] = False,
) -> None:
    """Write random weights for a configuration, to time exports, steps and answers.

    The configuration that fits is written beside it as OUT.json, and with --qwen a folder OUT.qwen.
    """
    with terminal.errors_reported():
        _require_torch()
        from omni_rt.export.random_checkpoint import random_files

        made = random_files(
            config,
            out,
            depth=depth,
            bf16=half,
            seed=seed,
            qwen=qwen,
            thinker_layers=thinker_layers,
            outliers=outliers,
        )
        terminal.say("\n".join(map(str, made)))


def bench_reference(
    bundle: BundleArgument,
    runs: Annotated[int, typer.Option(help="Runs of each, interleaved.", min=1)] = 5,
    threads: Annotated[int, typer.Option(help="Processor threads of both.", min=1)] = 2,
    as_json: Json = False,
) -> None:
    """Time a guided step beside the original's arithmetic in torch, in one run.

    Both are fp32. The original evaluates both branches over the whole padded context, with a mask,
    through torch's scaled_dot_product_attention; the bundle runs its `dit_step` in the loop.
    """
    with terminal.errors_reported():
        _require_torch()
        from omni_rt.export.bench_reference import compare_with_reference

        report = compare_with_reference(bundle, runs=runs, threads=threads)
        if as_json:
            terminal.print_json(report)
            return
        rows = [
            (
                name,
                f"{timing.p50_s * 1e3:.0f}",
                f"{timing.p90_s * 1e3:.0f}",
                f"{gflop:.0f}",
                f"{gflop / timing.p50_s:.0f}",
            )
            for name, timing, gflop in (
                ("original, torch", report.original, report.original_gflop),
                ("dit_step, loop", report.step, report.step_gflop),
            )
        ]
        terminal.print_table(
            f"guided step, fp32, {threads} threads",
            ("", "p50 ms", "p90 ms", "GFLOP", "GFLOP/s"),
            rows,
        )
        saved = report.original_gflop / report.step_gflop
        terminal.say(
            f"{report.ratio:.2f}× faster (of which {saved:.2f}× is arithmetic saved); "
            f"velocities differ by {report.rel_l2:.1e} (rel. L2); "
            f"loop overhead {report.loop_overhead_percent:.4f} %"
        )


def bench_cuda(
    bundle: Annotated[
        Path | None, typer.Argument(help="Time this bundle's own step.", metavar="BUNDLE")
    ] = None,
    engine: EngineName = AUTO,
    gpu: GpuNumber = None,
    depth: Annotated[
        int | None, typer.Option(help="Blocks, without a bundle; the official 36.", min=1)
    ] = None,
    steps: Annotated[int, typer.Option(help="Euler steps of a run.", min=1)] = 100,
    runs: Annotated[int, typer.Option(help="Runs of each, after one to warm up.", min=1)] = 5,
    repeats: Annotated[int, typer.Option(help="Runs of one seed, to compare bits.", min=1)] = 100,
    as_json: Json = False,
) -> None:
    """Time the loop on this machine's CUDA device beside the original's PyTorch loop.

    Random weights of the official width; the original is fp16 by autocast, both branches over 2304
    context tokens. Kernels are first compared with the processor's loop, to the bit.

    omni-rt bench-cuda card --engine tensorrt_rtx

    With a bundle: its own step, enqueued row by row, captured and replayed, and replayed with all
    rows on the stream at once; without torch, and without the original.
    """
    with terminal.errors_reported():
        if bundle is not None:
            if depth is not None:
                raise RequestError("--depth is for random weights: a bundle has its own")
            _bench_loop(bundle, engine, gpu or 0, steps, runs, repeats, as_json)
            return
        if engine != AUTO or gpu is not None:
            raise RequestError("--engine and --gpu are for a bundle: give one")
        _require_torch()
        from omni_rt.export import bench_cuda as bench
        from omni_rt.export.bench_cuda_table import print_report

        with terminal.stage_notes(quiet=as_json) as tell:
            report = bench.bench_cuda(
                depth=depth or 36, steps=steps, runs=runs, repeats=repeats, progress=tell
            )
        if as_json:
            terminal.print_json(report)
        else:
            print_report(report)


def _bench_loop(
    path: Path, engine: str, gpu: int, steps: int, runs: int, repeats: int, as_json: bool
) -> None:
    """A bundle's own step in the CUDA loop."""
    from omni_rt.bench_loop import bench_loop
    from omni_rt.bundle import Bundle
    from omni_rt.export.bench_cuda_table import print_loop

    with terminal.progress_bars() as bars:
        opened = Bundle.open(path, progress=bars("verifying the bundle"))
    with terminal.stage_notes(quiet=as_json) as tell:
        report = bench_loop(
            opened, engine=engine, gpu=gpu, steps=steps, runs=runs, repeats=repeats, progress=tell
        )
    if as_json:
        terminal.print_json(report)
    else:
        print_loop(report)
