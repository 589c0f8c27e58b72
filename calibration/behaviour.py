"""What rounding did to the right answers of a model that has them, from two score runs.

Scores belong to what decides results, `Bundle.model_id`: a bundle whose plans are fitted or whose
certificate is written has another id, and the same scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from omni_rt.bundle import Bundle
from omni_rt.errors import BundleError, RequestError
from omni_rt.export.miniature.data import AUDIO_KINDS
from omni_rt.export.miniature.paired import paired_drops, read_report
from omni_rt.export.miniature.report import ScoreReport
from omni_rt.manifest import Behaviour, Figure, replace_manifest

MOST_POINTS = 2.0
FEWEST_EXAMPLES = 400  # with fewer the bound says more about chance than about the model
_ORIGIN = "two points: what a user of a hundred results might notice; paired bootstrap, 95 %"


def behaviour(before: ScoreReport, after: ScoreReport) -> Mapping[str, Behaviour]:
    """By kind, for all that both runs scored.

    Raises RequestError for runs on other examples, without a kind in common, or of sounds by other
    plans or guidance: answers to questions depend on neither.
    """
    drops = paired_drops(before, after)
    if not drops:
        raise RequestError("the two runs have no kind in common")
    if not drops.keys().isdisjoint(AUDIO_KINDS):
        _check_alike(before, after)
    shares = {s.kind: s.passed for s in before.kinds}
    found = {}
    for scores in after.kinds:
        passed, reference = scores.passed, shares.get(scores.kind)
        if passed is None or reference is None:
            continue
        upper = drops[scores.kind].upper
        found[scores.kind] = Behaviour(
            count=passed.share.count,
            reference=reference.share.passed,
            share=passed.share.passed,
            chance=passed.chance,
            drop=Figure(value=upper, bound=MOST_POINTS, unit="points", origin=_ORIGIN),
            plan=after.plan if scores.kind in AUDIO_KINDS else "",
        )
    return found


def _check_alike(before: ScoreReport, after: ScoreReport) -> None:
    for name in ("plan", "cfg_scale"):
        ours, theirs = getattr(after, name), getattr(before, name)
        if ours != theirs:
            raise RequestError(f"the two runs differ in {name}: {theirs} and {ours}")


def add_behaviour(bundle: Path, before: Path, after: Path) -> Mapping[str, Behaviour]:
    """Write what two runs of `omni-rt score` say into a quantised bundle's certificate.

    before: of the unrounded bundle; after: of this one. Kinds that they lack stay as they are in
    the certificate. Returns what these two say. Raises RequestError unless they are of these two
    models, with at least 400 examples of a kind; BundleError if nothing was rounded.
    """
    opened = Bundle.open(bundle)
    certificate = opened.manifest.certificate
    if certificate is None or certificate.rounding is None:
        raise BundleError(f"{bundle} has no certificate of rounding: quantise a bundle first")
    first, second, rounding = read_report(before), read_report(after), certificate.rounding
    _check_of(
        first, before, rounding.source, rounding.source_model_id, "what this was rounded from"
    )
    _check_of(second, after, opened.id, opened.model_id, "this bundle")
    if second.count < FEWEST_EXAMPLES:
        raise RequestError(
            f"scores of {second.count} examples of a kind say too little: "
            f"run omni-rt score with --count {FEWEST_EXAMPLES} or more"
        )
    found = behaviour(first, second)
    rounding = replace(rounding, behaviour={**rounding.behaviour, **found})
    manifest = replace(opened.manifest, certificate=replace(certificate, rounding=rounding))
    replace_manifest(manifest, bundle)
    return found


def _check_of(scores: ScoreReport, path: Path, bundle_id: str, model_id: str, what: str) -> None:
    """Raise RequestError unless the scores are of the bundle that has these ids."""
    if scores.is_of(bundle_id, model_id):
        return
    if scores.model_id and model_id:
        raise RequestError(f"{path}: scores of model {scores.model_id}, but {what} is {model_id}")
    older = "the file" if not scores.model_id else "the certificate"
    again = "score again" if not scores.model_id else "quantise again"
    raise RequestError(
        f"{path}: scores of bundle {scores.bundle}, but {what} is {bundle_id}; {older} is from "
        f"before models had ids, so nothing else can show that they are alike: {again}"
    )
