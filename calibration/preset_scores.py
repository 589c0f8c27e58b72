"""Right answers of plans, kind by kind, kept in a folder so that a run that is cut off goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omni_rt import strict_json
from omni_rt.bundle import Bundle
from omni_rt.errors import BundleError, ExportError, RequestError
from omni_rt.export.miniature.data import AUDIO_KINDS
from omni_rt.export.miniature.paired import paired_drops
from omni_rt.export.miniature.report import KindScores, ScoreReport
from omni_rt.export.miniature.scoring_run import Settings, chosen_kinds, score_kind
from omni_rt.session import Session
from omni_rt.whole_file import draft_of

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


def made_folder(folder: Path) -> Path:
    """The folder for scores, made if need be. Raises ExportError for what the file system says."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot keep scores in {folder}: {error.strerror}") from error
    return folder


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
        made_folder(self.kept)
        bundle = self.session.bundle
        return ScoreReport(
            bundle=bundle.id,
            name=bundle.manifest.name,
            plan=settings.plan.name,
            cfg_scale=float(settings.cfg_scale),
            seed=settings.seed,
            count=settings.count,
            kinds=tuple(self._kind(kind, settings) for kind in self.kinds),
        )

    def _kind(self, kind: str, settings: Settings) -> KindScores:
        key = _key(self.session.bundle, self.engine, settings)
        path = self.kept / f"{settings.plan.name}-{kind}-{key}.json"
        if path.exists():
            return _read(path)
        self.progress(f"{settings.plan.name}: {settings.count} of {kind}")
        found = score_kind(self.session, kind, settings, lambda *_: None)
        if found.status == "failed":
            raise ExportError(f"{settings.plan.name}, {kind}: {found.reason}")
        if found.status == "lacking":  # which a later run may not, on this machine or another
            self.progress(f"without {kind}: {found.reason}")
            return found
        with draft_of(path) as draft:
            draft.write_text(json.dumps(strict_json.to_json(found)) + "\n", encoding="utf-8")
        return found


def _key(bundle: Bundle, engine: str, settings: Settings) -> str:
    """Of all that the scores depend on: graphs, rows, guidance, examples and noise."""
    graphs = {stage: bundle.graph_digest(stage) for stage in bundle.manifest.graphs}
    told = [
        graphs,
        engine,
        settings.plan.table().tolist(),
        settings.cfg_scale,
        settings.count,
        settings.seed,
        settings.first_noise,
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _read(path: Path) -> KindScores:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return strict_json.parse(KindScores, raw, where=path.name)
    except (OSError, ValueError, RecursionError, BundleError) as error:
        raise ExportError(f"{path} holds no scores, remove it: {error}") from error


def mean_drops(faithful: ScoreReport, own: ScoreReport) -> dict[str, float]:
    """Points that each kind fell by, for all that both runs scored."""
    return {kind: drop.points for kind, drop in paired_drops(faithful, own).items()}


def seed_points(one: ScoreReport, other: ScoreReport) -> dict[str, float]:
    """By kind, the upper 95 % bootstrap bound of what two sets of seeds differ by, in points.

    Of the two directions the larger: neither set is the right one.
    """
    there, back = paired_drops(one, other), paired_drops(other, one)
    return {kind: max(there[kind].upper, back[kind].upper) for kind in there}
