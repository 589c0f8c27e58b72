"""`omni-rt quantise`: an unrounded bundle for a device, with its certificate."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from omni_rt import terminal
from omni_rt.base_types import FP16_MAX, outgrows_fp16
from omni_rt.cli_options import (
    GUIDANCE,
    CasesAudio,
    CasesSeed,
    Config,
    Json,
    NewBundle,
    Overwrite,
    QwenConfig,
)
from omni_rt.errors import ExportError
from omni_rt.manifest import Certificate

Int4Block = Annotated[
    int,
    typer.Option(help="Input channels of 4-bit weights that share a scale: 64, or 128 for less."),
]


def commands(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(quantise)
    app.command()(certify)
    app.command()(sizes)


def _require_libraries() -> None:
    for name in ("torch", "onnx_ir", "modelopt", "safetensors"):
        if find_spec(name) is None:
            raise ExportError(f"{name} is missing: pip install 'omni_rt[quantise]'")


def quantise(
    bundle: Annotated[Path, typer.Argument(help="The unrounded bundle's directory.")],
    out: NewBundle,
    target: Annotated[str, typer.Option(help="What it is for; a wrong one lists them all.")] = (
        "cpu"
    ),
    per_task: Annotated[
        int, typer.Option(help="Observed cases of each task, most of them for their words.", min=1)
    ] = 16,
    sampled: Annotated[
        int, typer.Option(help="Of these, cases that are observed over all steps.", min=1)
    ] = 4,
    steps: Annotated[int, typer.Option(help="Steps of those, and up to four more.", min=1)] = 12,
    cfg_scale: Annotated[
        float | None,
        typer.Option(
            *GUIDANCE, help="Guidance to observe and certify at; the bundle's if not given."
        ),
    ] = None,
    seed: CasesSeed = 0,
    audio: CasesAudio = None,
    ranges: Annotated[
        Path | None,
        typer.Option(help="File to keep observed ranges in; OUT.ranges.npz if not given."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="A matrix to leave as it is, with those that read the same, or a pattern of them "
            "('*.ff.*'); repeatable."
        ),
    ] = None,
    weights_only: Annotated[
        list[str] | None,
        typer.Option(
            help="Likewise: matrices that are rounded, while what they read and multiply is not."
        ),
    ] = None,
    per_token: Annotated[
        bool,
        typer.Option(
            help="Give what is read in 8-bit integers a scale for each token where one for all "
            "loses clearly more; --no-per-token for a compiler that does not keep these in 8 bits."
        ),
    ] = True,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="8-bit integers where the target has E4M3: as fast where a GPU has both, and "
            "nearer to exact; attention is not rounded then.",
        ),
    ] = False,
    int4_block: Int4Block = 64,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Most error of the guided velocity (relative L2): of what takes most of it, the "
            "weights alone are rounded, or it is kept.",
            min=0,
        ),
    ] = None,
    certify_steps: Annotated[
        int, typer.Option(help="Euler steps of the certificate's trajectories.", min=1)
    ] = 100,
    overwrite: Overwrite = False,
    threads: Annotated[int | None, typer.Option(help="Threads of the reference.", min=1)] = None,
) -> None:
    """Round a bundle for a device, and certify what that changed.

    omni-rt quantise bundle --target cpu --out bundle-int8

    Runs the bundle's own reference over cases of every task, keeps the range of everything that is
    multiplied, and chooses factors and scales from them (SmoothQuant, AWQ). Each matrix is rounded
    so that its values make up for one another's errors (GPTQ). Ranges are kept in a file after
    every case: an interrupted run goes on, and another target needs no new ones. OUT.report.html
    shows the certificate with plots and spectrograms.

    A student is observed and certified on its own plan; --sampled, --steps, --certify-steps are a
    teacher's.

    The result carries a certificate of what rounding changed, on cases of its own; a bundle that
    misses a bound is written too, but runs only with --allow-uncertified.
    """
    with terminal.errors_reported():
        _require_libraries()
        import torch

        from omni_rt.bundle import Bundle
        from omni_rt.calibration.quantise import QuantiseOptions, quantise_bundle

        if threads is not None:
            torch.set_num_threads(threads)
        options = QuantiseOptions(
            bundle=bundle,
            out=out,
            target=target,
            per_task=per_task,
            sampled=sampled,
            steps=steps,
            cfg_scale=cfg_scale,
            seed=seed,
            audio=audio,
            ranges=ranges,
            keep=tuple(keep or ()),
            weights_only=tuple(weights_only or ()),
            per_token=per_token,
            int8=int8,
            int4_block=int4_block,
            budget=budget,
            certify_steps=certify_steps,
            overwrite=overwrite,
        )
        made = quantise_bundle(options, progress=terminal.note)
        certificate = Bundle.open(made).manifest.certificate
        assert certificate is not None
        failed = certificate.failed()
        for line in _wide_stages(certificate):
            terminal.say(line)
        terminal.say(f"{made}: {'certified' if not failed else 'NOT certified'}")
        if failed:
            terminal.missed("misses its bounds: " + ", ".join(failed))


def _wide_stages(certificate: Certificate) -> list[str]:
    """A line for every stage whose products are too large for fp16 on a GPU."""
    largest = {} if certificate.rounding is None else certificate.rounding.largest
    return [
        f"{stage}: values reach {value:.3g}, fp16 ends at {FP16_MAX:.0f}: engines will be in bf16"
        for stage, value in largest.items()
        if outgrows_fp16(stage, value)
    ]


def certify(
    bundle: Annotated[Path, typer.Argument(help="A quantised bundle's directory.")],
    before: Annotated[Path, typer.Option(help="JSON of omni-rt score of the unrounded bundle.")],
    after: Annotated[Path, typer.Option(help="JSON of omni-rt score of this one.")],
) -> None:
    """Write into a certificate what rounding did to the right answers of a model that has them.

    omni-rt score bundle --count 400 --out before.json

    omni-rt score bundle-int8 --count 400 --out after.json

    omni-rt certify bundle-int8 --before before.json --after after.json

    Kinds of earlier runs stay. BUNDLE.report.html is written anew: with what is right, and one
    sound, from the bundle's parity files. Exit status 1 if a kind may have lost too much.
    """
    with terminal.errors_reported():
        from omni_rt.bundle import Bundle
        from omni_rt.calibration.behaviour import add_behaviour
        from omni_rt.certificate_sounds import parity_pairs, report_beside, write_report

        found = add_behaviour(bundle, before, after)
        opened = Bundle.open(bundle)
        with terminal.stage_notes(quiet=False) as tell:
            pairs = parity_pairs(opened, tell=tell)
        page = write_report(opened, report_beside(bundle), pairs)
        rows = [
            (
                kind,
                f"{100 * b.reference:.1f}",
                f"{100 * b.share:.1f}",
                f"{100 * b.chance:.1f}",
                f"{b.drop.value:.1f}",
                "yes" if b.drop.passed else "NO",
            )
            for kind, b in found.items()
        ]
        columns = ("kind", "before %", "after %", "chance %", "95 % below", "within 2 points")
        terminal.print_table("right answers", columns, rows)
        terminal.say(f"{page} shows the whole certificate")
        failed = [kind for kind, b in found.items() if not b.drop.passed]
        if failed:
            terminal.missed(f"may have lost more than two points: {', '.join(failed)}")


def sizes(
    config: Config,
    qwen_config: QwenConfig = None,
    target: Annotated[str, typer.Option(help="What it would be rounded for.")] = "cpu",
    int4_block: Int4Block = 64,
    weights: Annotated[
        str,
        typer.Option(
            metavar="fp32|half", help="How the bundle that is quantised stores its weights."
        ),
    ] = "half",
    as_json: Json = False,
) -> None:
    """How large a model of this configuration would be, computed from shapes alone.

    Counted are weights, in decimal megabytes: rounded matrices and tables with their scales, and
    what is not rounded, which stays as `omni-rt export --weights` stored it; half if not said. Not
    counted are graph files, padding between weights, text and parity files.

    omni-rt sizes --config Audio-Omni.json --qwen-config Qwen2.5-Omni-3B/config.json --target orin
    """
    with terminal.errors_reported():
        _require_libraries()
        from omni_rt.calibration.sizes import configured_bytes
        from omni_rt.targets import target_as_asked

        if weights not in ("fp32", "half"):
            raise ExportError(f"--weights is fp32 or half, not {weights!r}")
        half = weights == "half"
        asked = target_as_asked(target, int4_block=int4_block)
        found = configured_bytes(config, qwen_config, asked, half=half)
        if as_json:
            terminal.print_json(found)
            return
        rows = [
            (s.stage, s.format, _mb(s.fp32), _mb(s.rounded), s.shared_with or "") for s in found
        ]
        whole, rounded = sum(s.fp32 for s in found), sum(s.rounded for s in found)
        rows.append(("all", "", _mb(whole), f"{_mb(rounded)} ({100 * rounded / whole:.1f} %)", ""))
        columns = ("stage", "format", "fp32 MB", f"{target} MB", "shared with")
        terminal.print_table("weights and their scales, without graph files", columns, rows)


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"
