"""`omni-rt compare` and `omni-rt report`: a bundle beside another one, and its certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omni_rt import terminal
from omni_rt.bundle import Bundle
from omni_rt.cli_options import BundleArgument, CfgScale, EngineName, Json, PlanName, Threads
from omni_rt.engines.registry import AUTO, engine_loader
from omni_rt.strict_json import to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omni_rt.compare import Compared
    from omni_rt.comparison import Verdict


def commands(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(compare)
    app.command()(report)


def _budget(what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=f"Budget: {what}")
    return option


def compare(
    a: Annotated[Path, typer.Argument(help="The bundle to go by.", metavar="A")],
    b: Annotated[
        Path | None,
        typer.Argument(help="The one to judge; if not given, A is, by its reference.", metavar="B"),
    ] = None,
    plan: PlanName = None,
    cfg_scale: CfgScale = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise: 0 if not given.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="T2A with this, instead of requests of our own.")
    ] = None,
    runs: Annotated[int, typer.Option(help="Timed steps of each, in turns.", min=1)] = 7,
    engine: EngineName = AUTO,
    threads: Threads = None,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Also write a page to this file.")] = None,
    max_stage_error: Annotated[float | None, _budget("relative L2 of any output.")] = None,
    max_velocity_error: Annotated[float | None, _budget("relative L2 at any time.")] = None,
    max_latent_error: Annotated[float | None, _budget("relative L2 of final latents.")] = None,
    max_lsd_db: Annotated[float | None, _budget("log-spectral distance of the sound.")] = None,
    max_stft: Annotated[float | None, _budget("multi-resolution STFT distance.")] = None,
    min_log_mel_cosine: Annotated[float | None, _budget("log-mel cosine, at least.")] = None,
    max_size_ratio: Annotated[float | None, _budget("bytes on disk, B / A.")] = None,
    max_step_ratio: Annotated[float | None, _budget("median time of a step, B / A.")] = None,
) -> None:
    """Compare two bundles of one model: sizes, speed, errors, sound.

    omni-rt compare fp32 int8 --max-latent-error 0.3 --max-lsd-db 3 --html compare.html

    omni-rt compare int8

    Every stage runs on the inputs in A's parity files; steps are timed in turns in one process; the
    same requests are made at equal noise, with plan ab3-25 if not given, and decoded. Without B, A
    is measured against the reference outputs that it carries. Certificates are not asked for. Exit
    status 1 if a budget is missed, or could not be measured; 2 after an error, such as a bundle
    that cannot be read.
    """
    with terminal.errors_reported():
        from omni_rt import compare as comparing
        from omni_rt.comparison import Budgets, judged
        from omni_rt.report_page import checked_page

        engine_loader(engine)
        target = None if html is None else checked_page(html)
        budgets = Budgets(
            max_stage_error=max_stage_error,
            max_velocity_error=max_velocity_error,
            max_latent_error=max_latent_error,
            max_lsd_db=max_lsd_db,
            max_stft=max_stft,
            min_log_mel_cosine=min_log_mel_cosine,
            max_size_ratio=max_size_ratio,
            max_step_ratio=max_step_ratio,
        )
        settings = comparing.Settings(
            plan=plan,
            cfg_scale=cfg_scale,
            seed=seed,
            prompts=tuple(prompt or ()),
            runs=runs,
            threads=threads,
            engine=engine,
        )
        first, second = _opened(a), None if b is None else _opened(b)
        with terminal.stage_notes(quiet=as_json) as tell:
            found = comparing.compare(first, second, settings, tell=tell)
        verdicts = judged(found.comparison, budgets)
        _tell(found, verdicts, as_json=as_json, page=target)
        missed = [str(v) for v in verdicts if not v.passed]
        if missed:
            terminal.missed(f"budgets missed: {'; '.join(missed)}")


def _opened(directory: Path) -> Bundle:
    with terminal.progress_bars() as bars:
        return Bundle.open(directory, progress=bars(f"verifying {directory}"))


def _tell(
    found: Compared, verdicts: Sequence[Verdict], *, as_json: bool, page: Path | None
) -> None:
    from omni_rt.compare_tables import conditions, summary, tables

    if page is not None:
        from omni_rt.compare_page import compare_page
        from omni_rt.report_page import write_page

        write_page(compare_page(found, verdicts), page)
    if as_json:
        ratios = {
            "size": found.comparison.size_ratio,
            "graphs": found.comparison.graphs_ratio,
            "step": found.comparison.step_ratio,
        }
        told = {**to_json(found.comparison), "ratios": ratios, "budgets": verdicts}
        terminal.print_json(told)
        return
    terminal.say(f"{summary(found.comparison)}  ({conditions(found.comparison)})")
    for table in tables(found.comparison):
        terminal.print_table(table.title, table.columns, table.rows)
    for note in found.comparison.notes:
        terminal.say(f"not compared: {note}")
    for verdict in verdicts:
        terminal.say(f"{'pass' if verdict.passed else 'MISSED'}  {verdict}")


def report(
    bundle: BundleArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write: .html.")],
    sounds: Annotated[
        bool,
        typer.Option(
            help="Also make one sound, from the noise that the bundle's parity files hold, beside "
            "the reference's."
        ),
    ] = True,
    engine: EngineName = AUTO,
    threads: Threads = None,
) -> None:
    """Write a bundle's parity certificate as a page: measurements, bounds, plots, spectrograms.

    omni-rt report BUNDLE -o report.html

    The sound takes as long as a request by the reference's plan; --no-sounds leaves it out.
    """
    with terminal.errors_reported():
        from omni_rt.certificate_sounds import parity_pairs, write_report
        from omni_rt.report_page import checked_page

        target, opened = checked_page(output), _opened(bundle)
        with terminal.stage_notes(quiet=False) as tell:
            pairs = (
                parity_pairs(opened, engine=engine, threads=threads, tell=tell) if sounds else ()
            )
        written = write_report(opened, target, pairs)
        if sounds and not pairs:
            terminal.note(
                "without spectrograms: the bundle carries no trajectory that it can repeat"
            )
        terminal.say(f"{written}: {written.stat().st_size / 1e3:.0f} kB")
