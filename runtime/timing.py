"""Seconds of several runs of one thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WARM_UP_RUNS = 1  # before those that are timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Least, median and ninth decile of a few runs, and how far they lie apart."""

    min_s: float
    p50_s: float
    p90_s: float
    spread: float  # from the first to the ninth decile, in medians
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        p10, p50, p90 = np.percentile(seconds, [10, 50, 90])
        spread = float((p90 - p10) / p50)
        return cls(
            min_s=min(seconds),
            p50_s=float(p50),
            p90_s=float(p90),
            spread=spread,
            runs=len(seconds),
        )
