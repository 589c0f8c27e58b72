"""`omni-rt distill`: a checkpoint → a student of few steps without guidance."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omni_rt import terminal
from omni_rt.cli_options import GUIDANCE, Json
from omni_rt.errors import ExportError

if TYPE_CHECKING:
    from omni_rt.calibration.distill.options import TrainingOptions


AsExport = Annotated[Path | None, typer.Option(help="As `omni-rt export` takes it.")]


def commands(app: typer.Typer) -> None:
    """Mount the command."""
    app.command()(distill)


def _require_libraries(*, trains: bool) -> None:
    for name in ("torch", "onnx_ir", "safetensors", "peft", *(["tensorboard"] if trains else [])):
        if find_spec(name) is None:
            raise ExportError(f"{name} is missing: pip install 'omni_rt[distill]'")


def distill(
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="The teacher: a folder with model.safetensors or model.ckpt, config.json and what "
            "conditions prompts (qwen/, prompts.json, vocabulary.txt, synchformer.safetensors), or "
            "the model's file, the rest given by options."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The student's folder to make: config.json, model.*.")
    ] = None,
    steps: Annotated[int, typer.Option(help="K: evaluations of the student.", min=1)] = 8,
    config: Annotated[Path | None, typer.Option(help="The model's configuration (JSON).")] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="A bundle of this checkpoint, to condition prompts; else one is made."),
    ] = None,
    qwen: AsExport = None,
    upstream: AsExport = None,
    synchformer: AsExport = None,
    synchformer_heads: Annotated[int, typer.Option(help="Its attention heads.", min=1)] = 12,
    captions: Annotated[
        Path | None, typer.Option(help="Your prompts for T2A and T2M, one a line.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(help="Folder of your own sounds, for editing and speech.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Only these tasks, comma-separated, e.g. T2A,T2M.")
    ] = None,
    shards: Annotated[int, typer.Option(help="Files of trajectories to make.", min=1)] = 64,
    per_task: Annotated[
        int, typer.Option(help="Prompts of each task in a file, or more where kinds are.", min=1)
    ] = 4,
    cfg_scale: Annotated[
        float | None,
        typer.Option(*GUIDANCE, help="The teacher's guidance; its own if not given, 7 or other."),
    ] = None,
    teacher_steps: Annotated[
        int, typer.Option(help="About: as many as divide into --steps.", min=1)
    ] = 25,
    shift: Annotated[float, typer.Option(help="Warp the student's times, as of a plan.")] = 1.0,
    segment_steps: Annotated[
        int, typer.Option(help="Iterations on the teacher's states.", min=1)
    ] = 10_000,
    tracking_steps: Annotated[
        int, typer.Option(help="Iterations on the student's own states.", min=0)
    ] = 2_000,
    batch: Annotated[int, typer.Option(help="Rows of an iteration, over all devices.")] = 64,
    micro_batch: Annotated[
        int | None, typer.Option(help="Rows at once on a device; all of its share if not given.")
    ] = None,
    lora: Annotated[
        int | None, typer.Option(help="Train adapters of this rank instead of all weights; 64.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Learning rate; 1e-5 if not given, with --lora 1e-4.")
    ] = None,
    optimiser: Annotated[
        str, typer.Option(help="adamw, or adamw8bit (needs bitsandbytes).")
    ] = "adamw",
    bf16: Annotated[
        bool, typer.Option("--bf16", help="The blocks in 16 bits, the teacher's too.")
    ] = False,
    checkpointing: Annotated[
        bool,
        typer.Option("--checkpointing", help="Compute a block twice instead of keeping it."),
    ] = False,
    save_every: Annotated[
        float, typer.Option(help="Seconds of training that a kill may lose.", min=0)
    ] = 300.0,
    overwrite: Annotated[bool, typer.Option(help="Replace the student that is at OUT.")] = False,
    seed: Annotated[int, typer.Option(help="Of prompts, noise and batches.", min=0)] = 0,
    trajectories: Annotated[
        Path | None,
        typer.Option(
            help="Learn from these, made for a student of twice or more the steps (its "
            "WORK/cache), instead of making own ones."
        ),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Trajectories, states, logs; OUT.work if not given.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only print what memory a step takes, counted from --config (no weights needed).",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Teach a student to do in K unguided steps what the guided model does in a hundred.

    omni-rt distill --checkpoint DIR --steps 8 --out STUDENT

    omni-rt export --config STUDENT/config.json --checkpoint STUDENT/model.safetensors … --out
    bundle

    Makes trajectories of the guided teacher (no data needed but captions), regresses the student
    onto their segments, then onto them from where the student itself arrives. Run the same command
    again after an interruption: it goes on.

    omni-rt distill --checkpoint DIR --steps 4 --trajectories STUDENT.work/cache --out STUDENT-4

    omni-rt distill --dry-run --config Audio-Omni.json --bf16 --micro-batch 4

    accelerate launch --no_python omni-rt distill …  # several GPUs
    """
    with terminal.errors_reported():
        _require_libraries(trains=not dry_run)
        from omni_rt.calibration.distill.options import (
            CacheOptions,
            DistillOptions,
            TrainingOptions,
        )
        from omni_rt.calibration.distill.run import distill as run

        training = TrainingOptions(
            segment_steps=segment_steps,
            tracking_steps=tracking_steps,
            batch=batch,
            micro_batch=micro_batch,
            lora_rank=lora,
            rate=rate,
            optimiser=optimiser,  # type: ignore[arg-type]  # checked there
            bf16=bf16,
            checkpointing=checkpointing,
            save_every_s=save_every,
        )
        if dry_run:
            _print_memory(checkpoint, config, training, as_json=as_json)
            return
        if checkpoint is None or out is None:
            raise ExportError("distill: give --checkpoint and --out")
        options = DistillOptions(
            checkpoint=checkpoint,
            out=out,
            config=config,
            bundle=bundle,
            qwen=qwen,
            upstream=upstream,
            synchformer=synchformer,
            synchformer_heads=synchformer_heads,
            overwrite=overwrite,
            trajectories=trajectories,
            work=work,
            training=training,
            cache=CacheOptions(
                steps=steps,
                shift=shift,
                teacher_steps=teacher_steps,
                cfg_scale=cfg_scale,
                shards=shards,
                per_task=per_task,
                tasks=tuple(t.strip() for t in (tasks or "").split(",") if t.strip()),
                captions=captions,
                audio=audio,
                seed=seed,
            ),
        )
        found = run(options, tell=terminal.note)
        if found is None:  # one of several processes, and not the first
            return
        if as_json:
            terminal.print_json(found)
            return
        held_out = found.held_out_error
        terminal.say(
            f"{found.out} written; from the teacher's latents at equal noise: "
            f"{found.trained_error:.3f} on trajectories trained on"
            + ("" if held_out is None else f", {held_out:.3f} on others")
        )


def _print_memory(
    checkpoint: Path | None, config: Path | None, training: TrainingOptions, *, as_json: bool
) -> None:
    from omni_rt.calibration.distill.files import configured_sizes
    from omni_rt.calibration.distill.memory import StepShape, step_memory, variants

    sizes = configured_sizes(checkpoint, config)
    shape = StepShape.of(sizes, training.micro_batch or training.batch)
    found = {name: step_memory(sizes.dit, shape, how) for name, how in variants(training).items()}
    if as_json:
        terminal.print_json(found)
        return
    parts = ("weights", "gradients", "optimiser", "average", "activations", "total")
    rows = [
        (name, *(f"{getattr(m, part) / 1e9:.2f}" for part in parts)) for name, m in found.items()
    ]
    terminal.print_table(
        f"GB of a step on one device: {shape.rows} rows at once, {training.optimiser}, "
        f"{'bf16' if training.bf16 else 'fp32'}",
        ("", *parts),
        rows,
    )
