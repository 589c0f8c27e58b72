"""The plan that a distilled checkpoint carries in its configuration, under the key `student`.

A student was taught where one evaluation at each time of its grid leads, without guidance: its
plan is Euler's on that grid, and no other (spec SOLVERS §3). Upstream's code ignores the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from omni_rt import strict_json
from omni_rt.errors import BundleError, ExportError, RequestError
from omni_rt.plans import Plan, make_plan

KEY = "student"
METHOD = "euler"
CFG_SCALE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSpec:
    """What the configuration says."""

    steps: int  # K
    grid: tuple[float, ...]  # K + 1 times from 1 to 0
    cfg_scale: float
    method: str

    @classmethod
    def on(cls, grid: tuple[float, ...]) -> StudentSpec:
        """A student of these times."""
        return cls(steps=len(grid) - 1, grid=grid, cfg_scale=CFG_SCALE, method=METHOD)

    def plan(self) -> Plan:
        """`student-K`: rows for these times alone. Raises RequestError for a bad grid."""
        rows = make_plan(f"{METHOD}-{self.steps}", grid=self.grid)
        return replace(rows, name=f"student-{self.steps}", method=None)


def student_of(raw: Mapping[str, Any]) -> StudentSpec | None:
    """What a raw configuration says of a student; None where it is of none.

    Raises ExportError naming the key that is wrong.
    """
    if KEY not in raw:
        return None
    try:
        spec = strict_json.parse(StudentSpec, raw[KEY], where=KEY)
        spec.plan()
    except (BundleError, RequestError) as error:
        raise ExportError(f"config: {KEY}: {error}") from error
    if (spec.cfg_scale, spec.method) != (CFG_SCALE, METHOD) or spec.grid[0] != 1.0:
        raise ExportError(
            f"config: {KEY}: only {METHOD} from t = 1 at cfg_scale {CFG_SCALE:g} is known, got "
            f"{spec.method} from t = {spec.grid[0]:g} at cfg_scale {spec.cfg_scale:g}"
        )
    return spec
