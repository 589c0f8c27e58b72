"""Right answers of plans, kind by kind: what was lost, and what another seed changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omni_rt.engines.registry import resolved
from omni_rt.errors import ExportError, RequestError
from omni_rt.export.miniature.data import AUDIO_KINDS
from omni_rt.export.miniature.kept_scores import KeptScores
from omni_rt.export.miniature.paired import paired_drops
from omni_rt.export.miniature.report import KindScores, ScoreReport
from omni_rt.export.miniature.scoring_run import Settings, chosen_kinds, score_kind
from omni_rt.session import Session

Progress = Callable[[str], None]


def audio_kinds(kinds: str | None) -> tuple[str, ...]:
    """The kinds of a comma-separated list whose results are sounds; all for None.

    Raises RequestError for an unknown one, and if there is none: answers to questions do not depend
    on a plan.
    """
    found = tuple(kind for kind in chosen_kinds(kinds) if kind in AUDIO_KINDS)
    if not found:
        raise RequestError(
            f"kinds {kinds} are questions, whose answers depend on no plan: choose from "
            f"{', '.join(AUDIO_KINDS)}"
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """A session's scores. `kept`: the folder where each kind's lie once it is done."""

    session: Session
    kinds: Sequence[str]
    engine: str
    kept: Path
    progress: Progress

    def scored(self, settings: Settings) -> ScoreReport:
        """All kinds. Raises ExportError if the model breaks down in one of them."""
        bundle = self.session.bundle
        kept = KeptScores(self.kept, bundle, engine=self.engine)
        return ScoreReport(
            bundle=bundle.id,
            name=bundle.manifest.name,
            plan=settings.plan.name,
            cfg_scale=float(settings.cfg_scale),
            seed=settings.seed,
            count=settings.count,
            kinds=tuple(
                kept.once(kind, settings, partial(self._kind, kind, settings))
                for kind in self.kinds
            ),
            model_id=bundle.model_id,
            engine=resolved(self.engine),
        )

    def _kind(self, kind: str, settings: Settings) -> KindScores:
        self.progress(f"{settings.plan.name}: {settings.count} of {kind}")
        found = score_kind(self.session, kind, settings, lambda *_: None)
        if found.status == "failed":
            raise ExportError(f"{settings.plan.name}, {kind}: {found.reason}")
        if found.status == "lacking":
            self.progress(f"without {kind}: {found.reason}")
        return found


def mean_drops(faithful: ScoreReport, own: ScoreReport) -> dict[str, float]:
    """Points that each kind fell by, for all that both runs scored."""
    return {kind: drop.points for kind, drop in paired_drops(faithful, own).items()}


def seed_points(one: ScoreReport, other: ScoreReport) -> dict[str, float]:
    """By kind, the upper 95 % bootstrap bound of what two sets of seeds differ by, in points.

    Of the two directions the larger: neither set is the right one.
    """
    there, back = paired_drops(one, other), paired_drops(other, one)
    return {kind: max(there[kind].upper, back[kind].upper) for kind in there}
