"""`omni-rt score` and `omni-rt demo`: what comes out, judged by what was asked. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omni_rt import terminal
from omni_rt.cli_options import (
    CfgScale,
    EngineName,
    Json,
    PlanName,
    Threads,
    Uncertified,
    open_session,
)
from omni_rt.engines.registry import AUTO, resolved

if TYPE_CHECKING:
    from omni_rt.export.miniature.against import Against
    from omni_rt.export.miniature.kept_scores import KeptScores
    from omni_rt.export.miniature.report import KindScores, ScoreReport
    from omni_rt.export.miniature.scoring_run import Settings
    from omni_rt.session import Session

BundleArgument = Annotated[
    Path | None,
    typer.Argument(help="The bundle's directory; the packaged miniature if not given."),
]
_HELD_OUT = 2026  # the seed of examples that nothing was trained on


def commands(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(score)
    app.command()(demo)


def score(
    bundle: BundleArgument = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            help="Only these kinds of examples, comma-separated; a wrong one lists them all."
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Examples of each kind.", min=1)] = 50,
    plan: PlanName = None,
    cfg_scale: CfgScale = None,
    seed: Annotated[
        int, typer.Option(help="Of examples and noise: the same seed asks for the same things.")
    ] = _HELD_OUT,
    engine: EngineName = AUTO,
    threads: Threads = None,
    allow_uncertified: Uncertified = False,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps each kind's scores: a run that was cut off goes on with them, "
            "and measure-presets takes them from there."
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="JSON of another run on the same examples: also say what was lost."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="With --against: fail if a kind may have lost more points than this."),
    ] = None,
) -> None:
    """Judge a bundle by what it makes: is it the note asked for, is the removed sound gone?

    omni-rt score BUNDLE

    omni-rt score BUNDLE --kinds note,remove,ask_words --count 400 --plan ab3-25 --out scores.json

    Every kind of task has right answers: the examples are procedural, and drawn from a seed of
    their own, so that none was trained on and every bundle gets the same ones. A check is the share
    of results that are right, with its 95 % interval (bootstrap) and what a guess would reach by
    chance; "all" is the share that is right in every check. Below are mean and median of what was
    measured (9.9 s: there were not as many clicks as asked for). The JSON also has each example's
    result, to compare two bundles one by one.

    --against compares with another run example by example: what was right there and is right here,
    what a guess would reach, by how many points each kind fell, and the bound that 95 % of
    bootstrap resamples stay below, which --max-drop is held against. It says what that run is of:
    the bundle that this one was rounded from, or not. With --json all of it is under `against`.

    It takes a model of the miniature's tasks: 8 kHz, clips of 2 s. A kind whose stage the bundle
    lacks, or that needs the extra `video` where that is not installed, is listed with the reason.
    Exit status 1 if a kind may have lost more than --max-drop; 2 if one failed while it ran, or if
    nothing could be scored, as after any error.
    """
    with terminal.errors_reported():
        from omni_rt.errors import RequestError
        from omni_rt.export.miniature.against import compared_with
        from omni_rt.export.miniature.kept_scores import KeptScores
        from omni_rt.export.miniature.paired import check_examples, read_report
        from omni_rt.export.miniature.score_tables import print_against, print_report
        from omni_rt.export.miniature.scoring_run import (
            Settings,
            check_count,
            check_model,
            chosen_kinds,
        )
        from omni_rt.options import Sampling
        from omni_rt.packaged import miniature
        from omni_rt.strict_json import to_json
        from omni_rt.whole_file import checked_target

        chosen = chosen_kinds(kinds)
        check_count(count)
        if max_drop is not None and against is None:
            raise RequestError("--max-drop needs --against, the run to compare with")
        before = None if against is None else read_report(against)
        target = None if out is None else checked_target(out, {".json": "JSON"})[0]
        directory = miniature() if bundle is None else bundle
        with open_session(
            directory, engine=engine, threads=threads, uncertified=allow_uncertified
        ) as session:
            check_model(session.bundle.manifest.dims)
            guidance = session.guidance(cfg_scale)
            how = Sampling(plan=session.plan(plan, cfg_scale=guidance), cfg_scale=guidance)
            settings = Settings(plan=how.plan, cfg_scale=guidance, count=count, seed=seed)
            if before is not None:
                check_examples(before, seed=seed, count=count)
            kept = None if scores is None else KeptScores(scores, session.bundle, engine=engine)
            report = _report(session, chosen, settings, kept, engine=engine, quiet=as_json)
            if target is not None:
                _write(report, target)
            beside = None if before is None else compared_with(before, report, session.bundle)
        if as_json:
            found = to_json(report)
            terminal.print_json(found if beside is None else {**found, "against": beside})
        else:
            print_report(report)
            if beside is not None:
                print_against(beside)
        if beside is not None and max_drop is not None:
            _hold(beside, max_drop)
        failed = [scores.kind for scores in report.kinds if scores.status == "failed"]
        if failed:
            terminal.fail(f"failed while it ran: {', '.join(failed)}")
        if all(scores.passed is None for scores in report.kinds):
            terminal.fail("nothing could be scored")


def _hold(beside: Against, max_drop: float) -> None:
    """End the command if a kind may have lost more points, or none can be compared."""
    lost = [kind for kind, one in beside.kinds.items() if one.upper > max_drop]
    if lost:
        terminal.missed(f"may have lost more than {max_drop:g} points: {', '.join(lost)}")
    if not beside.kinds:
        terminal.fail("no kind was scored in both runs")


def _report(
    session: Session,
    kinds: Sequence[str],
    settings: Settings,
    kept: KeptScores | None,
    *,
    engine: str,
    quiet: bool,
) -> ScoreReport:
    from omni_rt.export.miniature.report import ScoreReport
    from omni_rt.export.miniature.score_tables import told
    from omni_rt.export.miniature.scoring_run import score_kind

    def score(kind: str) -> KindScores:
        with terminal.progress_bars() as bars:
            return score_kind(session, kind, settings, bars(kind))

    found: list[KindScores] = []
    for kind in kinds:
        anew = partial(score, kind)
        found.append(anew() if kept is None else kept.once(kind, settings, anew))
        if not quiet:
            terminal.note(told(found[-1]))
    return ScoreReport(
        bundle=session.bundle.id,
        name=session.bundle.manifest.name,
        plan=settings.plan.name,
        cfg_scale=float(settings.cfg_scale),
        seed=settings.seed,
        count=settings.count,
        kinds=tuple(found),
        model_id=session.bundle.model_id,
        engine=resolved(engine),
    )


def _write(report: ScoreReport, target: Path) -> None:
    from omni_rt.strict_json import to_json
    from omni_rt.whole_file import draft_of

    with draft_of(target) as draft:
        draft.write_text(json.dumps(to_json(report), indent=1) + "\n", encoding="utf-8")


def demo(
    bundle: BundleArgument = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("demo"),
    plan: PlanName = None,
    cfg_scale: CfgScale = None,
    seed: Annotated[int, typer.Option(help="Of what is asked for, and of the noise.")] = 7,
    engine: EngineName = AUTO,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Make a sound, music, speech and an edit, and say of each whether it is what was asked for.

    omni-rt demo --out demo

    Writes the sounds as .wav, the edit's source among them, and a picture of their spectrograms.
    It takes a model of the miniature's tasks, such as the packaged one, since only those have right
    answers; `omni-rt generate` and `omni-rt edit` take any bundle.
    """
    with terminal.errors_reported():
        from omni_rt.export.miniature.demo import run_demo
        from omni_rt.export.miniature.scoring_run import check_model
        from omni_rt.packaged import miniature

        directory = miniature() if bundle is None else bundle
        with open_session(directory, engine=engine, threads=threads) as session:
            check_model(session.bundle.manifest.dims)
            guidance = session.guidance(cfg_scale)
            chosen = session.plan(plan, cfg_scale=guidance)
            out.mkdir(parents=True, exist_ok=True)
            with terminal.progress_bars() as bars:
                done = run_demo(
                    session,
                    out,
                    plan=chosen,
                    cfg_scale=guidance,
                    seed=seed,
                    tell=bars,
                )
        if as_json:
            terminal.print_json(done)
            return
        rows = [
            (m.file.name, f"{m.task}: {m.asked}", _verdict(m.right), f"{m.took_s:.1f} s")
            for m in done.made
        ]
        terminal.print_table(f"made in {out}", ("file", "asked for", "heard", "took"), rows)
        order = ", ".join(file.stem for file in done.sounds)
        terminal.say(f"{done.picture}: {order}, from above")


def _verdict(right: Mapping[str, bool]) -> str:
    return ", ".join(f"{name} {'right' if passed else 'wrong'}" for name, passed in right.items())
