"""Two score runs on the same examples: how much was lost, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omni_rt import strict_json
from omni_rt.errors import BundleError, RequestError
from omni_rt.export.miniature.report import KindScores, ScoreReport

_RESAMPLES = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Points (hundredths) that a share fell by; negative if it rose."""

    points: float
    upper: float  # 95 % of bootstrap resamples of the examples fall by less


def paired_drop(reference: str, own: str, *, seed: int = 0) -> Drop:
    """From each example's digits (`Check.each`) in two runs on the same examples.

    Raises RequestError if they are not of as many examples, or of other digits than 0 and 1.
    """
    if not set(reference + own) <= {"0", "1"}:
        raise RequestError("runs are paired by digits 0 and 1, one for each example")
    if len(reference) != len(own) or not own:
        raise RequestError(f"runs of {len(reference)} and {len(own)} examples cannot be paired")
    lost = np.array([int(a) - int(b) for a, b in zip(reference, own, strict=True)], np.float64)
    stream = np.random.RandomState(seed)
    means = lost[stream.randint(0, len(lost), (_RESAMPLES, len(lost)))].mean(axis=1)
    return Drop(points=100 * float(lost.mean()), upper=100 * float(np.percentile(means, 95)))


def paired_drops(reference: ScoreReport, own: ScoreReport) -> dict[str, Drop]:
    """By kind, for all that both runs scored. Raises RequestError for other examples."""
    check_examples(reference, seed=own.seed, count=own.count)
    theirs = _scored(reference)
    return {
        kind: paired_drop(theirs[kind], each)
        for kind, each in _scored(own).items()
        if kind in theirs
    }


def check_examples(reference: ScoreReport, *, seed: int, count: int) -> None:
    """Raise RequestError unless a run of this seed and count is of the same examples."""
    for name, ours in (("seed", seed), ("count", count)):
        theirs = getattr(reference, name)
        if ours != theirs:
            raise RequestError(f"scores of {name} {theirs} and {ours} are of other examples")


def _scored(report: ScoreReport) -> Mapping[str, str]:
    found: dict[str, KindScores] = {scores.kind: scores for scores in report.kinds}
    return {kind: s.passed.each for kind, s in found.items() if s.passed is not None}


def read_report(path: Path) -> ScoreReport:
    """A file that `omni-rt score --out` wrote. Raises RequestError if it is none."""
    try:
        return strict_json.read(ScoreReport, path)
    except BundleError as error:
        raise RequestError(f"{path} holds no scores: {error}") from error
