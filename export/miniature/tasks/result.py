"""What a score says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One result's score.

    values: checks (1 right, 0 wrong) and measurements, which have their unit in their name.
    chances: of each check, that a guess with the right form passes it. chance: of all of them.
    """

    passed: bool
    values: Mapping[str, float]
    chances: Mapping[str, float]
    chance: float


def scored(
    checks: Mapping[str, bool],
    chances: Mapping[str, float],
    measured: Mapping[str, float] | None = None,
    *,
    needed: tuple[str, ...] | None = None,
) -> Score:
    """A score that passes if all checks do, or the `needed` ones."""
    assert checks.keys() == chances.keys(), (checks, chances)
    counted = tuple(checks) if needed is None else needed
    return Score(
        passed=all(checks[name] for name in counted),
        values={**{name: float(right) for name, right in checks.items()}, **(measured or {})},
        chances=dict(chances),
        chance=prod(chances[name] for name in counted),
    )
