"""`omni-rt bench`: how long stages take here, kept as a baseline or compared with one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omni_rt import terminal
from omni_rt.bundle import Bundle
from omni_rt.cli_options import BundleArgument, EngineName, Json, Threads
from omni_rt.engines.registry import AUTO, engine_loader
from omni_rt.errors import RequestError

if TYPE_CHECKING:
    from omni_rt.bench import BenchReport
    from omni_rt.bench_thinker import ThinkerBench
    from omni_rt.latency import Baseline

_MAX_SLOWDOWN = 1.15  # of a median: a choice, no spread was measured on an idle machine yet


def commands(app: typer.Typer) -> None:
    """Mount the command."""
    app.command()(bench)


def bench(
    bundle: BundleArgument,
    runs: Annotated[
        int, typer.Option(help="Timed runs of each stage, or of each preset.", min=1)
    ] = 5,
    steps: Annotated[int, typer.Option(help="Steps per run of the loop.", min=1)] = 5,
    engine: EngineName = AUTO,
    threads: Threads = None,
    save: Annotated[
        Path | None, typer.Option(help="Keep the times: a file, or a folder of baselines.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with the times kept there; slower is exit 1.")
    ] = None,
    max_slowdown: Annotated[
        float, typer.Option(help="How many times as long a median may take.", min=1)
    ] = _MAX_SLOWDOWN,
    presets: Annotated[
        bool, typer.Option("--presets", help="Instead: whole requests, by every preset in turns.")
    ] = False,
    student: Annotated[
        list[Path] | None,
        typer.Option(help="With --presets: a student's bundle, loaded beside it; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Time every stage and the sampling loop on this machine.

    omni-rt bench bundle --runs 20 --save baselines

    omni-rt bench bundle --runs 20 --against baselines

    omni-rt bench bundle --presets --student bundle-student-8
    """
    from omni_rt.bench import bench as run_bench
    from omni_rt.latency import baseline_of, for_device, this_device
    from omni_rt.latency import save as save_baseline

    with terminal.errors_reported():
        engine_loader(engine)
        if presets:
            if save is not None or against is not None:
                raise RequestError("--presets has no baselines: leave out --save and --against")
            bundles = [bundle, *(student or [])]
            _presets(bundles, runs=runs, engine=engine, threads=threads, as_json=as_json)
            return
        if student:
            raise RequestError("--student is for --presets")
        known = None if against is None else for_device(against, this_device())
        with terminal.progress_bars() as bars:
            opened = Bundle.open(bundle, progress=bars("verifying the bundle"))
        with terminal.stage_notes(quiet=as_json) as tell:
            report = run_bench(
                opened, runs=runs, steps=steps, threads=threads, engine=engine, progress=tell
            )
        if as_json:
            terminal.print_json(report)
        else:
            _print_report(report)
        taken = baseline_of(report, opened.manifest)
        if save is not None:
            terminal.note(f"baseline of {taken.device}: {save_baseline(taken, save)}")
        if known is not None:
            _compare(known, taken, max_slowdown)
        elif against is not None:
            terminal.note(f"skipped: {against} has no baseline of {taken.device}; --save makes one")


def _presets(
    bundles: list[Path], *, runs: int, engine: str, threads: int | None, as_json: bool
) -> None:
    """Median times of every preset, and how many times as fast as faithful it is."""
    from omni_rt.bench_presets import bench_presets, faithful_of

    with terminal.progress_bars() as bars:
        opened = [Bundle.open(path, progress=bars("verifying the bundle")) for path in bundles]
    with terminal.stage_notes(quiet=as_json) as tell:
        times = bench_presets(opened, runs=runs, threads=threads, engine=engine, progress=tell)
    if as_json:
        terminal.print_json(times)
        return
    faithful = faithful_of(times)
    rows = [
        (
            one.preset,
            one.plan,
            str(one.passes),
            f"{one.sampling_s:.3f}",
            f"{one.clip_s:.3f}",
            *(("", "") if faithful is None else (f"{x:.1f}×" for x in one.faster(faithful))),
        )
        for one in times
    ]
    columns = ("preset", "plan", "passes", "sampling s", "clip s", "sampling", "clip")
    terminal.print_table(
        f"one request, median of {runs}, and how much faster than faithful", columns, rows
    )


def _compare(before: Baseline, after: Baseline, max_slowdown: float) -> None:
    """Say what has become slower. Raises RequestError if the two cannot be compared."""
    from omni_rt.latency import changes, other_libraries, slower

    found = changes(before, after)
    for change in found:
        terminal.note(
            f"{change.stage}: {change.before.p50_s * 1e3:.2f} → {change.after.p50_s * 1e3:.2f} ms, "
            f"{change.slowdown:.2f} times (spread {change.before.spread:.0%} → "
            f"{change.after.spread:.0%})"
        )
    for library in other_libraries(before, after):
        terminal.note(f"not the baseline's: {library}")
    too_slow = slower(found, max_slowdown)
    if too_slow:
        named = ", ".join(f"{change.stage} {change.slowdown:.2f} times" for change in too_slow)
        terminal.missed(f"more than {max_slowdown:g} times as slow as the baseline: {named}")


def _print_report(report: BenchReport) -> None:
    rows = [
        (name, f"{t.p50_s * 1e3:.2f}", f"{t.p90_s * 1e3:.2f}", str(t.runs))
        for name, t in report.stages.items()
    ]
    title = (
        "dit_step: one guided step inside the loop; thinker_lm: one token; audio_tower: 2 s; "
        "vision_tower: 2 frames; synchformer: 16 frames"
    )
    terminal.print_table(title, ("stage", "p50 ms", "p90 ms", "runs"), rows)
    if report.step is not None:
        terminal.say(
            f"guided step: {report.step_gflop:.2f} GFLOP, {report.step_gflop_per_s:.1f} GFLOP/s"
            f" ({report.context_tokens} context tokens); "
            f"loop overhead {report.loop_overhead_percent:.3f} %"
        )
    if report.thinker is not None:
        _print_thinker(report.thinker)
    if report.synchformer_per_video_s is not None:
        terminal.say(f"synchformer: {report.synchformer_per_video_s:.2f} s per second of video")
    terminal.say(f"peak RSS {report.peak_rss_bytes / 1e6:.0f} MB")


def _print_thinker(found: ThinkerBench) -> None:
    rows = [
        ("prefill, per 100 tokens", "0", f"{found.prefill_100.p50_s * 1e3:.2f}"),
        *(
            ("a token of the answer", str(held), f"{timing.p50_s * 1e3:.2f}")
            for held, timing in found.token.items()
        ),
        ("512 tokens run again", "0", f"{found.rerun_512.p50_s * 1e3:.2f}"),
    ]
    terminal.print_table("thinker_lm", ("what", "tokens in the cache", "p50 ms"), rows)
    if found.cache_gain is not None:
        terminal.say(f"at 512 tokens the cache makes a token {found.cache_gain:.1f}× faster")
