"""A share of examples that passed, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How many of `count` examples passed, and the 95 % bootstrap interval of that share."""

    passed: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, results: Sequence[bool], *, seed: int = 0) -> Share:
        """The share of at least one result."""
        values = np.array(results, np.float64)
        stream = np.random.RandomState(seed)
        means = values[stream.randint(0, len(values), (_RESAMPLES, len(values)))].mean(axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        return cls(passed=float(values.mean()), low=float(low), high=float(high), count=len(values))
