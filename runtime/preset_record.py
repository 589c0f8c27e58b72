"""What presets were measured to be worth, as the manifest keeps it, and which may be the default.

Distances are at equal noise and guidance from where Euler's method in many steps ends, means over
requests of all tasks; drops are of right answers, example by example, below the faithful preset.
The yardstick is the teacher itself: how much another seed changes (docs/PRESETS.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LOG_MEL = "log-mel"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPreset:
    """One preset of a bundle."""

    plan: str
    plan_sha256: str | None  # of the plan's file; None: an analytic plan
    passes: int  # evaluations of the network for a request: rows × steps
    latents: float  # relative L2 from the reference
    log_mel: float  # 1 − cosine of the log-mel spectrograms, from the reference's sound
    drops: Mapping[str, float]  # kind of example → points below the faithful preset, mean

    @property
    def mean_drop(self) -> float | None:
        """Points, over all kinds; None without scores."""
        return sum(self.drops.values()) / len(self.drops) if self.drops else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSpread:
    """What other noise changes in the teacher's faithful preset, on the same requests.

    points: kind of example → upper 95 % bootstrap bound of the paired difference between two sets
    of seeds, the larger of the two directions.
    """

    log_mel: float  # 1 − cosine between two seeds' sounds, mean over the requests
    points: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetRecord:
    """All of a bundle's presets, tied by hash to the graphs and plan files that were measured."""

    graphs: Mapping[str, str]  # stage → digest of its files
    teacher: str | None  # id of the bundle that a student was held to; None: this one
    engine: str
    cfg_scale: float  # the teacher's
    reference: str  # plan that counts as exact
    cases: tuple[str, ...]  # requests whose distances were measured
    inputs: str  # digest of these requests
    seed: int
    count: int  # examples of each kind that was scored
    spread: SeedSpread
    presets: Mapping[str, MeasuredPreset]

    def exceeded(self, name: str) -> tuple[str, ...]:
        """In what a preset lies outside the teacher's seed-to-seed spread: log-mel, or kinds."""
        measured, found = self.presets[name], []
        if measured.log_mel > self.spread.log_mel:
            found.append(LOG_MEL)
        return (
            *found,
            *(k for k, drop in measured.drops.items() if drop > self.spread.points[k]),
        )

    @property
    def default(self) -> str:
        """The cheapest preset within the spread; if there is none, the dearest of all."""

        def passes(name: str) -> int:
            return self.presets[name].passes

        within = [name for name in self.presets if not self.exceeded(name)]
        return min(within, key=passes) if within else max(self.presets, key=passes)
