"""A bundle → the same bundle with its presets measured, and the default that follows from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from omni_rt.bundle import Bundle
from omni_rt.calibration.inputs import CalibrationSet, drawn_requests
from omni_rt.calibration.preset_scores import (
    Scorer,
    audio_kinds,
    mean_drops,
    seed_points,
)
from omni_rt.calibration.preset_sounds import EncodedRequests
from omni_rt.calibration.preset_teacher import teacher_of
from omni_rt.calibration.solver_cases import MOST_CASES
from omni_rt.calibration.trajectories import Trajectory, compared
from omni_rt.engines.registry import AUTO, engine_loader, resolved
from omni_rt.errors import BundleError, RequestError
from omni_rt.export.bundle_presets import copy_with_presets, put_presets
from omni_rt.export.miniature.kept_scores import made_folder
from omni_rt.export.miniature.report import ScoreReport
from omni_rt.export.miniature.scoring_run import Settings, check_count, check_model
from omni_rt.export.pack import check_target
from omni_rt.options import nth_seed
from omni_rt.plans import make_plan
from omni_rt.preset_record import MeasuredPreset, PresetRecord, SeedSpread
from omni_rt.presets import FAITHFUL, Preset, offered, passes
from omni_rt.session import Session
from omni_rt.uncertified import unsaid

Progress = Callable[[str], None]

_CASES_SEED = 1 << 21  # added to the seed: cases that no solver was fitted to or judged by
_EXAMPLES_SEED = 2026  # of `omni-rt score`: nothing was trained on them
_OTHER_NOISE = 1 << 30  # added to seeds: the second of the two sets


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureOptions:
    """What to measure, against what, on how much."""

    bundle: Path
    teacher: Path | None = None  # of a student's bundle, which is held to it
    out: Path | None = None  # None: the bundle itself
    cfg_scale: float | None = None  # the teacher's; None: its own
    reference: str = "euler-400"
    cases: int = 12  # requests, spread over all tasks
    count: int = 400  # examples of each kind, where the model has right answers; 0: none
    kinds: str | None = None  # comma-separated; None: all whose results are sounds
    seed: int = 0
    audio: Path | None = None  # the user's sounds instead of procedural ones
    scores: Path | None = None  # folder of what was scored; beside the bundle if not given
    engine: str = AUTO
    threads: int | None = None
    overwrite: bool = False

    @property
    def kept_scores(self) -> Path:
        """The folder of what was scored."""
        beside = Path(os.path.abspath(self.bundle if self.out is None else self.out))
        return self.scores or beside.with_name(f"{beside.name}.scores")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Yardstick:
    """What presets are held to: the teacher in many steps, faithful, and with other noise."""

    exact: Mapping[str, Trajectory]
    spread: SeedSpread
    faithful: ScoreReport | None


def measure_presets(
    options: MeasureOptions, *, progress: Progress = lambda _: None
) -> PresetRecord:
    """Measure every preset that the bundle offers, and write the record and the default.

    Raises RequestError and ExportError for options of no use, BundleError for a bundle that cannot
    sample, a student without its teacher, or a teacher that is none; ExportError if a model breaks
    down. Scores stay in a folder whatever happens, and another run goes on with them.
    """
    job = _Job(options, progress)
    record = job.record()
    if options.out is None:
        put_presets(job.bundle, record)
    else:
        copy_with_presets(job.bundle, record, options.out, overwrite=options.overwrite)
    return record


class _Job:
    """One measurement, its options checked before any work."""

    def __init__(self, options: MeasureOptions, progress: Progress) -> None:
        if make_plan(options.reference).renoise_rows:
            raise RequestError(f"reference {options.reference!r} adds fresh noise: it is not exact")
        if not 1 <= options.cases <= MOST_CASES:
            raise RequestError(f"cases must be 1 to {MOST_CASES}, got {options.cases}")
        if options.count:
            check_count(options.count)
        engine_loader(options.engine)
        self.bundle = Bundle.open(options.bundle)
        self._teacher = teacher_of(self.bundle, options.teacher)
        self._guidance = self._teacher.guidance(options.cfg_scale)
        if not offered(self.bundle):
            raise BundleError(
                f"this bundle offers no preset: {', '.join(self.bundle.student_plans)} is none"
            )
        self._kinds = audio_kinds(options.kinds) if options.count else ()
        if self._kinds and (why := _not_scored(self.bundle)) is not None:
            progress(f"no scores: {why}")
            self._kinds = ()
        if options.out is not None:
            check_target(options.out, self.bundle.manifest.size_bytes, options.overwrite)
        if self._kinds:
            made_folder(options.kept_scores)
        self._options, self._progress = options, progress

    def record(self) -> PresetRecord:
        options = self._options
        with TemporaryDirectory() as folder:
            drawn = self._cases(Path(folder))
            cases = drawn.cases
            with self._session(self._teacher) as session:
                requests = EncodedRequests(session, cases, self._progress)
                yardstick = self._yardstick(session, requests)
                presets = {} if options.teacher else self._measured(session, requests, yardstick)
            if options.teacher is not None:
                with self._session(self.bundle) as session:
                    requests = EncodedRequests(session, cases, self._progress)
                    presets = self._measured(session, requests, yardstick)
        graphs = self.bundle.manifest.graphs
        return PresetRecord(
            graphs={stage: self.bundle.graph_digest(stage) for stage in graphs},
            teacher=None if options.teacher is None else self._teacher.id,
            engine=resolved(options.engine),
            cfg_scale=self._guidance,
            reference=options.reference,
            cases=tuple(case.name for case in cases),
            inputs=drawn.digest,
            seed=options.seed,
            count=options.count if yardstick.spread.points else 0,
            spread=yardstick.spread,
            presets=presets,
        )

    def _cases(self, folder: Path) -> CalibrationSet:
        drawn = drawn_requests(
            self.bundle,
            self._options.cases,
            seed=self._options.seed + _CASES_SEED,
            audio=self._options.audio,
            folder=folder,
        )
        for task, reason in drawn.left_out.items():
            self._progress(f"without {task}: {reason}")
        return drawn

    def _session(self, bundle: Bundle) -> Session:
        with unsaid():
            return Session(
                bundle.directory,
                threads=self._options.threads,
                engine=self._options.engine,
                allow_uncertified=True,
            )

    def _yardstick(self, session: Session, requests: EncodedRequests) -> _Yardstick:
        scale = self._guidance
        faithful, other = (
            requests.followed(FAITHFUL.plan, cfg_scale=scale, seed_offset=offset)
            for offset in (0, _OTHER_NOISE)
        )
        scores, points = None, {}
        if self._kinds:
            scores = self._scored(session, FAITHFUL, cfg_scale=scale)
            again = self._scored(session, FAITHFUL, cfg_scale=scale, noise=_OTHER_NOISE)
            points = seed_points(scores, again)
        log_mel = compared(other, faithful)["log_mel_distance"]
        return _Yardstick(
            exact=requests.followed(self._options.reference, cfg_scale=scale),
            spread=SeedSpread(log_mel=log_mel, points=points),
            faithful=scores,
        )

    def _measured(
        self, session: Session, requests: EncodedRequests, yardstick: _Yardstick
    ) -> dict[str, MeasuredPreset]:
        """Every preset that the session's bundle offers."""
        scale = 1.0 if session.bundle.student_plans else self._guidance
        found = {}
        for preset in offered(session.bundle):
            made = requests.followed(preset.plan, cfg_scale=scale)
            apart = compared(made, yardstick.exact)
            drops = {}
            if yardstick.faithful is not None:
                own = self._scored(session, preset, cfg_scale=scale)
                drops = mean_drops(yardstick.faithful, own)
            found[preset.name] = MeasuredPreset(
                plan=preset.plan,
                plan_sha256=session.bundle.plan_sha256(preset.plan),
                passes=passes(session.plan(preset.plan, cfg_scale=scale), cfg_scale=scale),
                latents=apart["latents"],
                log_mel=apart["log_mel_distance"],
                drops={k: drop for k, drop in drops.items() if k in yardstick.spread.points},
            )
        return found

    def _scored(
        self, session: Session, preset: Preset, *, cfg_scale: float, noise: int = 0
    ) -> ScoreReport:
        scorer = Scorer(
            session=session,
            kinds=self._kinds,
            engine=self._options.engine,
            kept=self._options.kept_scores,
            progress=self._progress,
        )
        settings = Settings(
            plan=session.plan(preset.plan, cfg_scale=cfg_scale),
            cfg_scale=cfg_scale,
            count=self._options.count,
            seed=_EXAMPLES_SEED,
            noise=nth_seed(_EXAMPLES_SEED, noise),
        )
        return scorer.scored(settings)


def _not_scored(bundle: Bundle) -> str | None:
    """Why a model's results cannot be judged; None if they can."""
    try:
        check_model(bundle.manifest.dims)
    except RequestError as error:
        return str(error)
    return None
