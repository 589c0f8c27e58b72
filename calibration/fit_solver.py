"""A bundle → the same bundle with plans fitted to its own engines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from omni_rt.bundle import Bundle
from omni_rt.calibration.fields import CaseFields
from omni_rt.calibration.solver_cases import SolverCases, solver_cases
from omni_rt.calibration.solver_fit import FitSettings, Outcome, Progress, fit_at
from omni_rt.engine_pool import EnginePool
from omni_rt.engines.registry import AUTO, engine_loader, resolved
from omni_rt.errors import BundleError, RequestError
from omni_rt.export.bundle_plans import copy_with_plans, model_of, put_plans
from omni_rt.export.pack import check_target
from omni_rt.plan_file import FitRecord, PlanFile, merged, plan_file
from omni_rt.session import Session
from omni_rt.uncertified import unsaid


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """What to fit to what, on which cases."""

    bundle: Path
    out: Path | None = None  # None: the bundle itself
    cfg_scales: tuple[float, ...] = ()  # none: the bundle's own
    settings: FitSettings = field(default_factory=FitSettings)
    trajectories: int = 16  # cases that rows are fitted to
    held_out: int = 8  # cases that they are judged by
    seed: int = 0
    audio: Path | None = None  # the user's sounds instead of procedural ones
    engine: str = AUTO
    threads: int | None = None
    overwrite: bool = False


def fit_solver(options: FitOptions, *, progress: Progress = lambda _: None) -> tuple[Outcome, ...]:
    """Write plans `ls3-N` for every number of steps and guidance scale where they are worth it.

    The bundle is left as it is, and no other is written, if none is. Raises RequestError and
    ExportError for options of no use, BundleError for a bundle that cannot sample or whose model
    is distilled, EngineError if an engine fails.
    """
    options.settings.check()
    _check_guidance(options.cfg_scales)
    engine_loader(options.engine)
    bundle = Bundle.open(options.bundle)
    _check_bundle(bundle)
    if options.out is not None:
        check_target(options.out, bundle.manifest.size_bytes, options.overwrite)
    with TemporaryDirectory() as folder:
        cases = solver_cases(
            bundle,
            fitted=options.trajectories,
            held_out=options.held_out,
            seed=options.seed,
            audio=options.audio,
            folder=Path(folder),
        )
        for task, reason in cases.left_out.items():
            progress(f"without {task}: {reason}")
        outcomes = _outcomes(bundle, cases, options, progress)
    files = _plan_files(outcomes, cases, options)
    if files and options.out is not None:
        copy_with_plans(bundle, files, options.out, overwrite=options.overwrite)
    elif files:
        put_plans(bundle, files)
    return outcomes


def _check_guidance(scales: Sequence[float]) -> None:
    if not all(math.isfinite(scale) for scale in scales):
        raise RequestError(f"guidance must be finite numbers, got {list(scales)}")


def _check_bundle(bundle: Bundle) -> None:
    for stage in ("context", "signal", "dit_step"):
        bundle.graph(stage)
    if bundle.student_plans:
        raise BundleError(
            f"this bundle's model is distilled to {', '.join(bundle.student_plans)}: it has no "
            "fine trajectories to fit a solver to"
        )


def _outcomes(
    bundle: Bundle, cases: SolverCases, options: FitOptions, progress: Progress
) -> tuple[Outcome, ...]:
    pool = EnginePool(
        bundle,
        threads=options.threads,
        memory="staged",
        engine=options.engine,
    )
    with (
        unsaid(),
        Session(
            bundle.directory,
            threads=options.threads,
            memory="staged",
            engine=options.engine,
            allow_uncertified=True,
        ) as session,
    ):
        progress(f"encoding {len(cases.fitted) + len(cases.held_out)} requests")
        fitted, held_out = (
            CaseFields(session, pool, those) for those in (cases.fitted, cases.held_out)
        )
    found: list[Outcome] = []
    for scale in dict.fromkeys(options.cfg_scales or (bundle.guidance(None),)):
        found += fit_at(
            fitted.at(scale),
            held_out.at(scale),
            options.settings,
            model=model_of(bundle, "fitted"),
            cfg_scale=scale,
            progress=progress,
        )
    return tuple(found)


def _plan_files(
    outcomes: Sequence[Outcome], cases: SolverCases, options: FitOptions
) -> list[PlanFile]:
    """A file for each name, with a table for each guidance scale that was not rejected."""
    files: dict[str, PlanFile] = {}
    for outcome in outcomes:
        if outcome.plan is not None:
            new = plan_file(outcome.plan, fit=_record(outcome, cases, options))
            files[new.name] = merged(files.get(new.name), new)
    return list(files.values())


def _record(outcome: Outcome, cases: SolverCases, options: FitOptions) -> FitRecord:
    assert outcome.spacing is not None
    assert outcome.error is not None
    return FitRecord(
        engine=resolved(options.engine),
        fine=options.settings.fine,
        cases=tuple(case.name for case in cases.fitted),
        inputs=cases.digest,
        seed=options.seed,
        residuals=outcome.residuals,
        reference=options.settings.reference,
        held_out=tuple(case.name for case in cases.held_out),
        spacing=outcome.spacing,
        error=outcome.error,
        spacings=outcome.spacings,
        others=outcome.others,
    )
