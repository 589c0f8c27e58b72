"""`omni-rt`: the commands of the runtime; other layers mount theirs through entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from omni_rt import terminal
from omni_rt.audio import Audio
from omni_rt.bundle import Bundle
from omni_rt.errors import RequestError
from omni_rt.manifest import Measurement
from omni_rt.options import OnStep
from omni_rt.plans import Plan, make_plan
from omni_rt.session import Session

app = typer.Typer(
    name="omni-rt",
    help="Run Audio-Omni: make and edit sound, music and speech from a bundle.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

BundleArgument = Annotated[Path, typer.Argument(help="The bundle's directory.", metavar="BUNDLE")]
BundleOption = Annotated[
    Path,
    typer.Option("--bundle", "-b", envvar="OMNI_RT_BUNDLE", help="The bundle's directory."),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Where to write: .wav, .flac, .ogg or .mp3.")
]
Threads = Annotated[int | None, typer.Option(help="Processor threads; all if not given.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Uncertified = Annotated[
    bool, typer.Option("--allow-uncertified", help="Run a bundle whose parity is not proved.")
]
PlanName = Annotated[
    str | None,
    typer.Option("--plan", help="Solver and steps, e.g. euler-100, ab3-25, dpmpp2m-16."),
]
Shift = Annotated[
    float | None,
    typer.Option(help="Warp the plan's times: above 1 spends more steps near the noise."),
]
CfgScale = Annotated[float, typer.Option(help="Guidance: 1 is none, 7 the original's default.")]
Rescale = Annotated[float, typer.Option(help="Guidance rescale φ, 0 to 1.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same sound.")]
Negative = Annotated[str | None, typer.Option(help="What should not be heard.")]
Raw = Annotated[bool, typer.Option("--raw", help="Do not normalise the peak.")]


def _open(bundle: Path, threads: int | None, allow_uncertified: bool, memory: str) -> Session:
    if allow_uncertified:
        terminal.note("warning: the bundle's parity certificate is not checked")
    with terminal.progress_bars() as bars:
        return Session(
            bundle,
            threads=threads,
            memory=memory,  # type: ignore[arg-type]  # checked there, with a better message
            allow_uncertified=allow_uncertified,
            progress=bars("verifying the bundle"),
        )


def _shifted(plan: Plan, shift: float | None) -> Plan:
    """The same analytic plan on warped times."""
    if shift is None:
        return plan
    if plan.method is None:
        raise RequestError(f"plan {plan.name!r} is fitted to its times: --shift cannot warp them")
    return make_plan(f"{plan.method}-{len(plan.grid) - 1}", shift=shift)


def _finish(audio: Audio, output: Path, as_json: bool) -> None:
    audio.save(output)
    if as_json:
        terminal.print_json({"file": output, "duration_s": audio.duration_s, **audio.made})
    else:
        terminal.say(f"{output}: {audio.duration_s:.2f} s, seed {audio.made['seed']}")


@app.command()
def generate(
    task: Annotated[str, typer.Argument(help="T2A, T2M, TTS or VC.", metavar="TASK")],
    bundle: BundleOption,
    output: Output,
    prompt: Annotated[str | None, typer.Option(help="What to make, or for TTS the words.")] = None,
    voice: Annotated[
        Path | None, typer.Option(help="A recording whose voice is to speak (first 6 s are used).")
    ] = None,
    voice_transcript: Annotated[
        str | None, typer.Option(help="The words spoken in --voice.")
    ] = None,
    transcript: Annotated[
        str | None, typer.Option(help="VC: the words of the recording to convert.")
    ] = None,
    init_audio: Annotated[Path | None, typer.Option(help="A recording to vary.")] = None,
    init_strength: Annotated[
        float | None, typer.Option(help="How much of it remains, 0 to 1.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(help="Seconds; 10 if not given, segments above one window.")
    ] = None,
    negative_prompt: Negative = None,
    plan: PlanName = None,
    shift: Shift = None,
    cfg_scale: CfgScale = 7.0,
    rescale: Rescale = 0.0,
    seed: Seed = None,
    raw: Raw = False,
    threads: Threads = None,
    memory: Annotated[str, typer.Option(help="resident or staged.")] = "resident",
    allow_uncertified: Uncertified = False,
    as_json: Json = False,
) -> None:
    """Make a sound.

    omni-rt generate T2A -b BUNDLE --prompt "Rain on a tin roof" -o rain.wav

    omni-rt generate TTS -b BUNDLE --prompt "Good morning." -o speech.wav
    """
    with terminal.errors_reported(), _open(bundle, threads, allow_uncertified, memory) as session:
        with terminal.progress_bars() as bars:
            audio = session.generate(
                task,
                prompt=prompt,
                voice=voice,
                voice_transcript=voice_transcript,
                transcript=transcript,
                negative_prompt=negative_prompt,
                init_audio=init_audio,
                init_strength=init_strength,
                duration_s=duration,
                plan=_shifted(session.plan(plan), shift),
                cfg_scale=cfg_scale,
                rescale=rescale,
                seed=seed,
                normalise=not raw,
                on_step=bars("sampling"),
            )
        _finish(audio, output, as_json)


@app.command()
def edit(
    task: Annotated[
        str, typer.Argument(help='Add, Remove, Extract or "Style Transfer".', metavar="TASK")
    ],
    source: Annotated[Path, typer.Argument(help="The recording to edit.")],
    bundle: BundleOption,
    output: Output,
    desc: Annotated[str | None, typer.Option(help="The sound to add, remove or extract.")] = None,
    source_category: Annotated[str | None, typer.Option(help="Style Transfer: from …")] = None,
    target_category: Annotated[str | None, typer.Option(help="Style Transfer: … to.")] = None,
    negative_prompt: Negative = None,
    plan: PlanName = None,
    shift: Shift = None,
    cfg_scale: CfgScale = 7.0,
    rescale: Rescale = 0.0,
    seed: Seed = None,
    raw: Raw = False,
    threads: Threads = None,
    memory: Annotated[str, typer.Option(help="resident or staged.")] = "resident",
    allow_uncertified: Uncertified = False,
    as_json: Json = False,
) -> None:
    """Edit a recording.

    omni-rt edit Remove street.mp3 -b BUNDLE --desc "a dog barking" -o quiet.wav
    """
    with terminal.errors_reported(), _open(bundle, threads, allow_uncertified, memory) as session:
        with terminal.progress_bars() as bars:
            audio = session.edit(
                task,
                source,
                desc=desc,
                source_category=source_category,
                target_category=target_category,
                negative_prompt=negative_prompt,
                plan=_shifted(session.plan(plan), shift),
                cfg_scale=cfg_scale,
                rescale=rescale,
                seed=seed,
                normalise=not raw,
                on_step=bars("sampling"),
            )
        _finish(audio, output, as_json)


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
        size = sum(spec.size_bytes for spec in manifest.files.values())
        dims = manifest.dims
        terminal.say(f"{manifest.name}  id {opened.id}  {size / 1e6:.1f} MB")
        terminal.say(f"weights: {manifest.weights_licence}")
        terminal.say(
            f"transformer {dims.width} wide, {dims.depth} deep, {dims.heads} heads; "
            f"{dims.latent_channels}×{dims.latent_frames} latents; "
            f"{dims.clip_samples / dims.sample_rate_hz:.2f} s at {dims.sample_rate_hz} Hz"
        )
        terminal.say(f"default plan {manifest.default_plan}")
        rows = [
            (name, graph.precision, str(graph.opset), _mb(opened, graph.path))
            for name, graph in manifest.graphs.items()
        ]
        terminal.print_table("stages", ("stage", "precision", "opset", "graph kB"), rows)
        certificate = manifest.certificate
        if certificate is None:
            terminal.say("no parity certificate: Session refuses this bundle")
        else:
            _print_measurements(
                f"parity with {certificate.reference} ({certificate.library})",
                {**certificate.stages, **certificate.end_to_end},
            )


def _mb(bundle: Bundle, path: str) -> str:
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
def verify(bundle: BundleArgument, threads: Threads = None, as_json: Json = False) -> None:
    """Measure every stage on this machine against the reference outputs in the bundle.

    Exit status 1 if a file is damaged or a stage is further from the reference than its bound.
    """
    from omni_rt import verify as verification

    with terminal.errors_reported():
        with terminal.progress_bars() as bars:
            opened = Bundle.open(bundle, progress=bars("verifying the bundle"))
        measured: dict[str, Measurement] = {}
        with terminal.stage_notes(quiet=as_json) as tell:

            def loader(stage: str) -> Any:
                tell(stage)
                return verification.load(opened, stage, threads=threads)

            for _, of_stage, whole in verification.measurements(opened, loader):
                measured |= {**of_stage, **whole}
        if as_json:
            terminal.print_json({"bundle": opened.id, "measured": measured})
        else:
            _print_measurements("measured on this machine", measured)
        failed = [name for name, m in measured.items() if not m.passed]
        if failed:
            terminal.fail(f"out of bounds: {', '.join(failed)}")


@app.command()
def bench(
    bundle: BundleArgument,
    runs: Annotated[int, typer.Option(help="Timed runs of each stage.", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="Steps per run of the loop.", min=1)] = 5,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Time every stage and the sampling loop on this machine."""
    from omni_rt.bench import bench as run_bench

    with terminal.errors_reported():
        with terminal.progress_bars() as bars:
            opened = Bundle.open(bundle, progress=bars("verifying the bundle"))
        with terminal.stage_notes(quiet=as_json) as tell:
            report = run_bench(opened, runs=runs, steps=steps, threads=threads, progress=tell)
        if as_json:
            terminal.print_json(report)
            return
        rows = [
            (name, f"{t.p50_s * 1e3:.2f}", f"{t.p90_s * 1e3:.2f}", str(t.runs))
            for name, t in report.stages.items()
        ]
        title = "dit_step: one guided step inside the loop"
        terminal.print_table(title, ("stage", "p50 ms", "p90 ms", "runs"), rows)
        if report.step is not None:
            terminal.say(
                f"guided step: {report.step_gflop:.2f} GFLOP, {report.step_gflop_per_s:.1f} GFLOP/s"
                f" ({report.context_tokens} context tokens); "
                f"loop overhead {report.loop_overhead_percent:.3f} %"
            )
        terminal.say(f"peak RSS {report.peak_rss_bytes / 1e6:.0f} MB")


@app.command()
def demo(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("demo"),
    plan: Annotated[str, typer.Option(help="Solver and steps.")] = "ab3-25",
    seed: Annotated[int, typer.Option(help="Seed of all of them.")] = 7,
) -> None:
    """Make a sound, speech and an edit, and save them."""
    from omni_rt.demo import run_demo

    with terminal.errors_reported(), _open(bundle, None, False, "resident") as session:
        out.mkdir(parents=True, exist_ok=True)
        with terminal.progress_bars() as bars:

            def tell(name: str) -> OnStep:
                return bars(name)

            made = list(run_demo(session, out, seed=seed, plan=plan, tell=tell))
        rows = [(m.what, str(m.path), f"{m.duration_s:.2f} s", f"{m.seconds:.2f} s") for m in made]
        terminal.print_table("demo", ("task", "file", "sound", "took"), rows)


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
    for entry in entry_points(group="omni_rt.commands"):
        entry.load()(app)
    app()
