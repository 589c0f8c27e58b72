"""Plan files of a bundle: rows under a name, and for which model and guidance they hold.

An analytic plan is one table for any model. A fitted or a student's plan names the model that it
is for; of a fitted one there may be several tables, each for a guidance scale.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from omni_rt import strict_json
from omni_rt.errors import BundleError, RequestError
from omni_rt.plans import COLUMNS, MAX_STEPS, METHODS, Model, Plan, Row, check_grid

_MOST_TABLES = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Spacing = Literal["uniform", "fitted", "refined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRecord:
    """How rows were fitted, and how far from exact their latents end on cases of their own.

    Errors are relative L2 from `reference` at equal noise and guidance, means over the held-out
    cases; None is not finite.
    """

    engine: str  # library that ran the graphs
    fine: str  # plan whose states the rows were fitted to
    cases: tuple[str, ...]
    inputs: str  # digest of the sets that these and the held-out cases were drawn from
    seed: int
    residuals: tuple[float, ...]  # after each row, relative L2 from the fine states
    reference: str
    held_out: tuple[str, ...]
    spacing: Spacing  # of the grid that was taken
    error: float
    spacings: Mapping[Spacing, float | None]  # error on each grid that was tried
    others: Mapping[str, float | None]  # error of other plans, by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows, and the guidance that they hold for."""

    cfg_scale: float | None  # None: any
    grid: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]  # [n, 8], as `columns` says
    fit: FitRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """What a plan file holds."""

    name: str
    method: str | None  # None: not analytic
    model: Model | None  # None: any
    columns: tuple[str, ...]
    tables: tuple[Table, ...]

    @property
    def guidance(self) -> tuple[float, ...]:
        """The guidance scales that there are tables for, ascending; none for an analytic plan."""
        return tuple(sorted(t.cfg_scale for t in self.tables if t.cfg_scale is not None))

    def nearest(self, cfg_scale: float) -> Plan:
        """The rows for this guidance, or for the nearest that there are; of two, the lower."""
        table = min(self.tables, key=lambda t: _distance(t.cfg_scale, cfg_scale))
        rows = tuple(
            Row(t=t, p=p, q=q, a=a, b=(b0, b1, b2), c=c) for t, p, q, a, b0, b1, b2, c in table.rows
        )
        return Plan(
            name=self.name,
            rows=rows,
            grid=table.grid,
            method=self.method,
            model=self.model,
            cfg_scale=table.cfg_scale,
        )


def _distance(made_for: float | None, wanted: float) -> tuple[float, float]:
    return (0.0, 0.0) if made_for is None else (abs(made_for - wanted), made_for)


def plan_file(plan: Plan, *, fit: FitRecord | None = None) -> PlanFile:
    """A file of one plan."""
    rows = tuple(tuple(row) for row in plan.table().tolist())
    return PlanFile(
        name=plan.name,
        method=plan.method,
        model=plan.model,
        columns=COLUMNS,
        tables=(Table(cfg_scale=plan.cfg_scale, grid=plan.grid, rows=rows, fit=fit),),
    )


def merged(before: PlanFile | None, new: PlanFile) -> PlanFile:
    """The new tables, with those of the old file for other guidance of the same model."""
    if before is None or new.model is None or (before.model, before.name) != (new.model, new.name):
        return new
    kept = [table for table in before.tables if table.cfg_scale not in new.guidance]
    tables = sorted([*kept, *new.tables], key=lambda t: t.cfg_scale or 0.0)
    return PlanFile(
        name=new.name,
        method=new.method,
        model=new.model,
        columns=new.columns,
        tables=tuple(tables),
    )


def plan_text(file: PlanFile) -> str:
    """The JSON of a plan file."""
    return json.dumps(strict_json.to_json(file), indent=1, allow_nan=False) + "\n"


def read_plan_file(path: Path) -> PlanFile:
    """A plan file of a bundle. Raises BundleError saying where it is wrong."""
    where = f"plan {path.name}"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{where}: unreadable: {error}") from error
    file = strict_json.parse(PlanFile, raw, where=where)
    if not _NAME.fullmatch(file.name):  # files are named after it
        raise BundleError(f"{where}.name: letters, digits, '.', '_' and '-', got {file.name!r:.40}")
    if file.columns != COLUMNS:
        raise BundleError(f"{where}.columns: must be {list(COLUMNS)}, got {list(file.columns)}")
    if not 1 <= len(file.tables) <= _MOST_TABLES:
        raise BundleError(f"{where}.tables: 1 to {_MOST_TABLES}, got {len(file.tables)}")
    for i, table in enumerate(file.tables):
        _check_table(table, f"{where}.tables[{i}]")
    _check_holds_for(file, where)
    return file


def _check_table(table: Table, where: str) -> None:
    if not 0 < len(table.rows) <= 2 * MAX_STEPS:
        raise BundleError(f"{where}.rows: 1 to {2 * MAX_STEPS}, got {len(table.rows)}")
    if any(len(row) != len(COLUMNS) for row in table.rows):
        raise BundleError(f"{where}.rows: each must have the {len(COLUMNS)} columns")
    if table.cfg_scale is not None and not math.isfinite(table.cfg_scale):
        raise BundleError(f"{where}.cfg_scale: must be finite, got {table.cfg_scale}")
    try:
        check_grid(np.array(table.grid, np.float64))
    except RequestError as error:
        raise BundleError(f"{where}: {error}") from error


def _check_holds_for(file: PlanFile, where: str) -> None:
    """An analytic plan holds for all models and guidance; another for those that it names."""
    scales = [table.cfg_scale for table in file.tables]
    if file.method is None:
        if file.model is None or None in scales or len(set(scales)) < len(scales):
            raise BundleError(
                f"{where}: rows without a method need the model that they are for, "
                "and each table a guidance of its own"
            )
        if file.model.kind == "student" and scales != [1.0]:
            raise BundleError(f"{where}: a student's rows are for guidance 1, got {scales}")
    elif file.method not in METHODS:
        raise BundleError(f"{where}: unknown method {file.method!r}")
    elif file.model is not None or scales != [None]:
        raise BundleError(f"{where}: an analytic plan has one table, for any model and guidance")
