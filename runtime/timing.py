"""Seconds of several runs of one thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Median and ninth decile of a few runs."""

    p50_s: float
    p90_s: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        p50, p90 = np.percentile(seconds, [50, 90])
        return cls(p50_s=float(p50), p90_s=float(p90), runs=len(seconds))
