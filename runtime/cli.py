"""`omni-rt`: the commands of the runtime; other layers mount theirs through entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

from omni_rt import (
    __version__,
    cli_bench,
    cli_compare,
    cli_presets,
    cli_sound,
    cli_understand,
    terminal,
)
from omni_rt.bundle import Bundle
from omni_rt.cli_options import BundleArgument, EngineName, Json, Threads
from omni_rt.engines.registry import AUTO, engine_loader, resolved
from omni_rt.manifest import Manifest, Measurement
from omni_rt.plan_file import FitRecord

app = typer.Typer(
    name="omni-rt",
    help="Run Audio-Omni: make, edit and understand sound, music and speech from a bundle.\n\n"
    "Exit status: 1 if what was measured misses a bound or budget, 2 after an error, 130 after "
    "Ctrl-C.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

cli_sound.commands(app)
cli_understand.commands(app)
cli_compare.commands(app)
cli_presets.commands(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        terminal.say(f"omni_rt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="And exit.")
    ] = False,
) -> None:
    """Run Audio-Omni: make, edit and understand sound, music and speech from a bundle."""


@app.command()
def inspect(bundle: BundleArgument, as_json: Json = False) -> None:
    """Show what a bundle holds: sizes, stages, parity certificate, licence. Verifies its hashes."""
    with terminal.errors_reported():
        with terminal.progress_bars() as bars:
            opened = Bundle.open(bundle, progress=bars("verifying the bundle"))
        manifest = opened.manifest
        if as_json:
            terminal.print_json(manifest)
            return
        dims = manifest.dims
        terminal.say(f"{manifest.name}  id {opened.id}  {manifest.size_bytes / 1e6:.1f} MB")
        terminal.say(f"weights: {manifest.weights_licence}")
        terminal.say(
            f"transformer {dims.width} wide, {dims.depth} deep, {dims.heads} heads; "
            f"{dims.latent_channels}×{dims.latent_frames} latents; "
            f"{dims.clip_samples / dims.sample_rate_hz:.2f} s at {dims.sample_rate_hz} Hz"
        )
        alone = ", unguided: a student, which runs no other" if opened.student_plans else ""
        terminal.say(f"default plan {manifest.default_plan}{alone}")
        rows = [
            (name, graph.precision, str(graph.opset), _kilobytes(opened, graph.path))
            for name, graph in manifest.graphs.items()
        ]
        terminal.print_table("stages", ("stage", "precision", "opset", "graph kB"), rows)
        if opened.plan_files:
            _print_plans(opened)
        if manifest.engines:
            _print_engines(manifest)
        if "dit_step" in manifest.graphs:
            cli_presets.print_presets(opened)
        certificate = manifest.certificate
        if certificate is None:
            terminal.say("no parity certificate: Session refuses this bundle")
        else:
            _print_measurements(
                f"parity with {certificate.reference} ({certificate.library})",
                {**certificate.stages, **certificate.end_to_end},
            )


def _print_plans(bundle: Bundle) -> None:
    rows = [
        (
            file.name,
            "any model" if file.model is None else file.model.kind,
            "any" if table.cfg_scale is None else f"{table.cfg_scale:g}",
            str(len(table.grid) - 1),
            "" if table.fit is None else f"{table.fit.error:.4f}",
            "" if table.fit is None else _others(table.fit),
        )
        for file in bundle.plan_files.values()
        for table in file.tables
    ]
    columns = ("plan", "for", "guidance", "steps", "rel. L2", "others")
    terminal.print_table("plans of its own, and how far they end from exact", columns, rows)


def _print_engines(manifest: Manifest) -> None:
    rows = [
        (
            target,
            f"{engines.library} {engines.version}",
            "sm_" + engines.compute_capability.replace(".", ""),
            f"{len(engines.stages)} of {len(manifest.graphs)}",
            f"{sum(manifest.files[s.path].size_bytes for s in engines.stages.values()) / 1e6:.1f}",
            engines.known,
        )
        for target, engines in manifest.engines.items()
    ]
    columns = ("target", "library", "GPU", "stages", "plans MB", "known")
    terminal.print_table("engines", columns, rows)
    if manifest.left_out:
        terminal.say("packed for its engines: the graphs that they were built from are not here")


def _others(fit: FitRecord) -> str:
    found = {n: "diverges" if e is None else f"{e:.4f}" for n, e in fit.others.items()}
    return ", ".join(f"{name} {error}" for name, error in found.items())


def _kilobytes(bundle: Bundle, path: str) -> str:
    return f"{bundle.manifest.files[path].size_bytes / 1e3:.1f}"


def _print_measurements(title: str, measured: dict[str, Measurement]) -> None:
    rows = [
        (
            name,
            f"{m.rel_l2:.1e}",
            f"{m.bound_rel_l2:.0e}",
            f"{m.max_abs:.1e}",
            "exact" if m.rel_l2 == 0 else f"{m.snr_db or 0:.1f}",
            "pass" if m.passed else "FAIL",
        )
        for name, m in measured.items()
    ]
    terminal.print_table(title, ("output", "rel. L2", "bound", "max abs", "SNR dB", ""), rows)


@app.command()
def verify(
    bundle: BundleArgument,
    engine: EngineName = AUTO,
    device: Annotated[
        bool,
        typer.Option(
            "--device",
            help="The compiled engines on this machine's GPU, and keep in the bundle what they do.",
        ),
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure every stage on this machine against the reference outputs in the bundle.

    Exit status 1 if a stage is further from the reference than its bound; 2 if a file is damaged,
    as after any error.

    omni-rt verify bundle-rtx4090 --device

    Engines that were built ahead of time are proved by their compiler, and their rounding is
    emulated. With --device they are measured, and the bundle says on which GPU; a session refuses
    engines that were out of bounds there. The bundle's id changes.
    """
    from omni_rt import on_device
    from omni_rt import verify as verification

    with terminal.errors_reported():
        engine_loader(engine)  # an unknown one is told before the work begins
        with terminal.progress_bars() as bars:
            opened = Bundle.open(bundle, progress=bars("verifying the bundle"))
        here = on_device.engines_here(opened, engine) if device else None
        library = resolved(engine) if here is None else here.library
        measured: dict[str, Measurement] = {}
        with terminal.stage_notes(quiet=as_json) as tell:

            def loader(stage: str) -> Any:
                tell(stage)
                return verification.load(opened, stage, threads=threads, engine=library)

            if here is None:
                for _, of_stage, whole in verification.measurements(opened, loader):
                    measured |= {**of_stage, **whole}
            else:
                found = on_device.measured_here(opened, here, loader)
                measured |= {**found.stages, **found.end_to_end}
                on_device.keep(opened, here, found)
        where = "this machine" if here is None else f"{here.device}, CUDA {here.driver}"
        if as_json:
            terminal.print_json({"bundle": opened.id, "engine": library, "measured": measured})
        else:
            _print_measurements(f"measured on {where}: {library}", measured)
        failed = [name for name, m in measured.items() if not m.passed]
        if failed:
            terminal.missed(f"out of bounds: {', '.join(failed)}")


cli_bench.commands(app)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine can run, and what is missing for the rest."""
    from omni_rt.doctor import examine

    findings = examine()
    if as_json:
        terminal.print_json(findings)
        return
    rows = [(f.what, f.found, f.advice or "ok") for f in findings]
    terminal.print_table("omni-rt doctor", ("what", "found", "advice"), rows)


def main() -> None:
    """Entry point of `omni-rt`."""
    try:
        for entry in entry_points(group="omni_rt.commands"):
            entry.load()(app)
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
