"""A score run beside another one: what the two are, and what was lost, kind by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from omni_rt.bundle import Bundle
from omni_rt.export.miniature.paired import paired_drops
from omni_rt.export.miniature.report import ScoreReport

Relation = Literal["source", "itself", "another", "unknown"]

WORDS: Mapping[Relation, str] = {
    "source": "the bundle that this one was rounded from",
    "itself": "this model itself",
    "another": "another model, not what this one was rounded from",
    "unknown": "perhaps not what this one was rounded from: the file or the certificate names no "
    "model, and the bundles' ids differ",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """One kind in both runs: shares that are right, and the paired drop in points."""

    reference: float  # of the other run
    share: float  # of this one
    chance: float
    drop: float
    upper: float  # 95 % of bootstrap resamples drop by less


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """The other run, how its model and this one belong together, and what was lost."""

    bundle: str
    model_id: str
    name: str
    plan: str
    cfg_scale: float
    engine: str
    relation: Relation
    kinds: Mapping[str, Lost]

    @property
    def described(self) -> str:
        """The other run in one line."""
        how = f"plan {self.plan}, guidance {self.cfg_scale:g}"
        engine = f", {self.engine}" if self.engine else ""
        return f"{self.name} {self.bundle} ({how}{engine}), {WORDS[self.relation]}"


def compared_with(reference: ScoreReport, own: ScoreReport, bundle: Bundle) -> Against:
    """`own`, of this bundle, beside `reference`. Raises RequestError for other examples."""
    drops = paired_drops(reference, own)
    theirs, ours = ({k.kind: k.passed for k in run.kinds} for run in (reference, own))
    kinds = {}
    for kind, drop in drops.items():
        before, after = theirs[kind], ours[kind]
        assert before is not None  # paired drops are of what both scored
        assert after is not None
        kinds[kind] = Lost(
            reference=before.share.passed,
            share=after.share.passed,
            chance=after.chance,
            drop=drop.points,
            upper=drop.upper,
        )
    return Against(
        bundle=reference.bundle,
        model_id=reference.model_id,
        name=reference.name,
        plan=reference.plan,
        cfg_scale=reference.cfg_scale,
        engine=reference.engine,
        relation=relation(reference, bundle),
        kinds=kinds,
    )


def relation(reference: ScoreReport, bundle: Bundle) -> Relation:
    """Whose scores these are, seen from a bundle."""
    certificate = bundle.manifest.certificate
    rounding = None if certificate is None else certificate.rounding
    if reference.is_of(bundle.id, bundle.model_id):
        return "itself"
    if rounding is None:
        return "another" if reference.model_id else "unknown"
    if reference.is_of(rounding.source, rounding.source_model_id):
        return "source"
    return "another" if reference.model_id and rounding.source_model_id else "unknown"
