"""What a score run says: by kind and check the share reached, with its interval and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from omni_rt.export.miniature.share import Share
from omni_rt.export.miniature.tasks import Score

Status = Literal["scored", "lacking", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How often something was right.

    chance: that a guess with the right form is right, averaged over the examples.
    each: a digit per example, 1 right and 0 wrong. Equal seeds draw equal examples, so the digits
    of two bundles can be compared one by one.
    """

    share: Share
    chance: float
    each: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measured value over the `count` examples that have it; its unit is in its name."""

    mean: float
    median: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KindScores:
    """The scores of one kind of example.

    status: "lacking" if the bundle or this machine lacks what the kind needs, "failed" if the model
    broke down; then `reason` says of what, and there are no scores.
    passed: of all the checks that count for the kind together.
    """

    kind: str
    status: Status
    reason: str | None = None
    passed: Check | None = None
    checks: Mapping[str, Check]
    measures: Mapping[str, Measure]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReport:
    """A whole run. All but `seconds` comes out the same on the same machine and threads."""

    bundle: str  # its id, which certify, fit-solver and measure-presets change
    name: str
    plan: str
    cfg_scale: float
    seed: int
    count: int  # examples of each kind
    kinds: tuple[KindScores, ...]
    model_id: str = ""  # of what was judged (`Bundle.model_id`); empty in files without it
    engine: str = ""  # the library that ran it; likewise

    def is_of(self, bundle_id: str, model_id: str) -> bool:
        """Whether a bundle of these ids was judged.

        Where either side names no model, only an equal `bundle_id` shows that.
        """
        if self.model_id and model_id:
            return self.model_id == model_id
        return self.bundle == bundle_id


def summarised(kind: str, scores: Sequence[Score], *, seconds: float) -> KindScores:
    """The scores of a kind's examples, of which there is at least one."""
    names = tuple(scores[0].chances)
    measured = dict.fromkeys(name for s in scores for name in s.values if name not in names)
    return KindScores(
        kind=kind,
        status="scored",
        passed=_check([s.passed for s in scores], [s.chance for s in scores]),
        checks={
            name: _check([s.values[name] == 1 for s in scores], [s.chances[name] for s in scores])
            for name in names
        },
        measures={
            name: _measure([s.values[name] for s in scores if name in s.values])
            for name in measured
        },
        seconds=seconds,
    )


def not_scored(kind: str, status: Status, reason: str, *, seconds: float = 0.0) -> KindScores:
    """A kind without scores, and why."""
    return KindScores(
        kind=kind, status=status, reason=reason, checks={}, measures={}, seconds=seconds
    )


def _check(right: Sequence[bool], chances: Sequence[float]) -> Check:
    each = "".join(str(int(one)) for one in right)
    return Check(share=Share.of(right), chance=float(np.mean(chances)), each=each)


def _measure(values: Sequence[float]) -> Measure:
    mean, median = float(np.mean(values)), float(np.median(values))
    return Measure(mean=mean, median=median, count=len(values))
