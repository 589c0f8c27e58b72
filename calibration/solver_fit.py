"""Fields of a model → plans fitted to it, or the name of the analytic one that is better.

For every guidance scale: fine trajectories of the fitted cases, then for every number of steps rows
on a uniform grid, rows on one that is fitted to those trajectories, and the better of them refined.
Which are taken, and whether they are better than analytic plans of as many steps, is decided by
cases of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from omni_rt.calibration.fields import Field
from omni_rt.calibration.fine_path import FinePath, fine_path
from omni_rt.calibration.grid_fit import DENSITIES, fitted_grid
from omni_rt.calibration.plan_errors import exact_latents, plan_error
from omni_rt.calibration.refine import refined
from omni_rt.calibration.row_fit import FittedRows, fit_rows
from omni_rt.encode import Floats
from omni_rt.errors import ExportError, RequestError
from omni_rt.plan_file import Spacing
from omni_rt.plans import Model, Plan, make_plan, uniform_grid
from omni_rt.sampling import DivergedError

Progress = Callable[[str], None]

_BESIDE = ("euler", "ab3", "abm2")  # analytic plans of as many steps
_FEWEST_FINE = 2  # fine steps in a step
_MOST_REFINEMENTS = 20  # the second already gains little


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """What to fit, to what, and by what it is judged."""

    steps: tuple[int, ...] = (16, 8)
    spacings: tuple[Spacing, ...] = ("uniform", "fitted")
    refinements: int = 1  # rounds in which rows and times are moved together; 0: none
    fine_steps: int = 64  # of AB3
    reference: str = "euler-400"
    faithful: str = "euler-100"  # told beside the errors: what few steps are to be as good as

    def check(self) -> None:
        """Raise RequestError for what cannot be fitted."""
        most = self.fine_steps // _FEWEST_FINE
        for steps in self.steps:
            if not 1 <= steps <= most:
                raise RequestError(
                    f"steps must be 1 to {most}, half of the {self.fine_steps} of the fine "
                    f"trajectories, got {steps}"
                )
        if not self.steps or not self.spacings:
            raise RequestError("nothing to fit: give steps and a grid")
        if not 0 <= self.refinements <= _MOST_REFINEMENTS:
            raise RequestError(
                f"refinements must be 0 to {_MOST_REFINEMENTS}, got {self.refinements}"
            )
        if make_plan(self.reference).renoise_rows:
            raise RequestError(f"{self.reference} draws fresh noise: it is no reference")
        make_plan(self.fine)
        make_plan(self.faithful)

    @property
    def fine(self) -> str:
        """The plan of the fine trajectories."""
        return f"ab3-{self.fine_steps}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one number of steps at one guidance scale; see `FitRecord` for the errors."""

    steps: int
    cfg_scale: float
    plan: Plan | None  # None: rejected
    spacing: Spacing | None
    residuals: tuple[float, ...]
    spacings: Mapping[Spacing, float | None]
    others: Mapping[str, float | None]

    @property
    def name(self) -> str:
        return f"ls3-{self.steps}"

    @property
    def error(self) -> float | None:
        """Of the fitted rows: those that are taken, or the better ones that were rejected."""
        return min((e for e in self.spacings.values() if e is not None), default=None)

    @property
    def fallback(self) -> str | None:
        """The best analytic plan of as many steps; None if none is finite."""
        found = {n: e for n in _analytic(self.steps) if (e := self.others[n]) is not None}
        return min(found, key=lambda name: found[name], default=None)


def fit_at(
    fitted: Sequence[Field],
    held_out: Sequence[Field],
    settings: FitSettings,
    *,
    model: Model,
    cfg_scale: float,
    progress: Progress = lambda _: None,
) -> list[Outcome]:
    """Plans for one guidance scale, which the fields are at.

    Raises ExportError without cases, and if not even the fine trajectories are finite.
    """
    if not (fitted and held_out):
        raise ExportError("a solver needs cases to be fitted to, and others to be judged by")
    try:
        paths = []
        for i, field in enumerate(fitted):
            progress(f"guidance {cfg_scale:g}: {settings.fine}, case {i + 1} of {len(fitted)}")
            paths.append(fine_path(field, make_plan(settings.fine)))
        progress(f"guidance {cfg_scale:g}: {settings.reference} on {len(held_out)} held-out cases")
        exact = exact_latents(held_out, make_plan(settings.reference))
    except DivergedError as error:
        raise ExportError(f"there is nothing to fit a solver to: {error}") from error
    judge = _Judge(fields=held_out, exact=exact)
    faithful = {settings.faithful: judge.error(make_plan(settings.faithful))}
    outcomes = []
    for steps in settings.steps:
        doing = f"guidance {cfg_scale:g}: fitting ls3-{steps}"
        progress(doing)
        fits: dict[Spacing, FittedRows | None] = {
            spacing: _fit(fitted, paths, spacing, steps) for spacing in settings.spacings
        }
        if settings.refinements and "fitted" in settings.spacings:  # it moves times
            tell = partial(_tell_round, progress, doing)
            fits["refined"] = _refined(fitted, paths, fits.values(), settings.refinements, tell)
        candidates = {
            spacing: None if rows is None else (_plan(rows, model, cfg_scale), rows)
            for spacing, rows in fits.items()
        }
        outcomes.append(judge.outcome(steps, cfg_scale, candidates, faithful))
    return outcomes


def _tell_round(progress: Progress, doing: str, text: str) -> None:
    progress(f"{doing}: refining, {text}")


Candidate = tuple[Plan, FittedRows] | None  # None: it diverged


def _plan(rows: FittedRows, model: Model, cfg_scale: float) -> Plan:
    name = f"ls3-{len(rows.rows)}"
    return Plan(name=name, rows=rows.rows, grid=rows.grid, model=model, cfg_scale=cfg_scale)


def _refined(
    fields: Sequence[Field],
    paths: Sequence[FinePath],
    fits: Iterable[FittedRows | None],
    rounds: int,
    tell: Progress,
) -> FittedRows | None:
    """What ends nearest on the fitted cases, refined; None if all diverged."""
    best = min((f for f in fits if f is not None), key=lambda f: f.residuals[-1], default=None)
    return None if best is None else refined(fields, paths, best, rounds=rounds, tell=tell)


def _fit(
    fields: Sequence[Field], paths: Sequence[FinePath], spacing: Spacing, steps: int
) -> FittedRows | None:
    """Of several grids the one whose rows end nearest on the cases that they were fitted to."""
    if spacing == "uniform":
        grids = [tuple(uniform_grid(steps).tolist())]
    else:
        grids = [fitted_grid(paths, steps, density) for density in DENSITIES]
    fits = [rows for grid in grids if (rows := _rows(fields, paths, grid)) is not None]
    return min(fits, key=lambda rows: rows.residuals[-1], default=None)


def _rows(
    fields: Sequence[Field], paths: Sequence[FinePath], grid: Sequence[float]
) -> FittedRows | None:
    try:
        return fit_rows(fields, paths, grid)
    except DivergedError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Judge:
    """Held-out cases, and where they exactly lead."""

    fields: Sequence[Field]
    exact: Sequence[Floats]

    def error(self, plan: Plan) -> float | None:
        return plan_error(self.fields, self.exact, plan)

    def outcome(
        self,
        steps: int,
        cfg_scale: float,
        candidates: Mapping[Spacing, Candidate],
        faithful: Mapping[str, float | None],
    ) -> Outcome:
        """The better candidate, if no analytic plan of as many steps is as good."""
        others = {name: self.error(make_plan(name)) for name in _analytic(steps)}
        spacings = {s: None if c is None else self.error(c[0]) for s, c in candidates.items()}
        found = {s: e for s, e in spacings.items() if e is not None}
        best = min(found, key=lambda s: found[s], default=None)
        taken = None if best is None else candidates[best]
        if best is not None and any(e is not None and e <= found[best] for e in others.values()):
            taken = None
        return Outcome(
            steps=steps,
            cfg_scale=cfg_scale,
            plan=None if taken is None else taken[0],
            spacing=None if taken is None else best,
            residuals=() if taken is None else taken[1].residuals,
            spacings=spacings,
            others={**others, **faithful},
        )


def _analytic(steps: int) -> list[str]:
    return [f"{method}-{steps}" for method in _BESIDE]
