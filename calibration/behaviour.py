"""What rounding did to the right answers of a model that has them, from two score runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from omni_rt.bundle import Bundle
from omni_rt.errors import BundleError, RequestError
from omni_rt.export.miniature.paired import paired_drops, read_report
from omni_rt.export.miniature.report import ScoreReport
from omni_rt.manifest import Behaviour, Figure, replace_manifest

MOST_POINTS = 2.0
FEWEST_EXAMPLES = 400  # with fewer the bound says more about chance than about the model
_ORIGIN = "two points: what a user of a hundred results might notice; paired bootstrap, 95 %"


def behaviour(before: ScoreReport, after: ScoreReport) -> Mapping[str, Behaviour]:
    """By kind, for all that both runs scored.

    Raises RequestError for runs on other examples, plans or guidance.
    """
    for name in ("plan", "cfg_scale"):
        ours, theirs = getattr(after, name), getattr(before, name)
        if ours != theirs:
            raise RequestError(f"the two runs differ in {name}: {theirs} and {ours}")
    drops = paired_drops(before, after)
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
        )
    return found


def add_behaviour(bundle: Path, before: Path, after: Path) -> Mapping[str, Behaviour]:
    """Write what two runs of `omni-rt score` say into a quantised bundle's certificate.

    before: of the unrounded bundle; after: of this one. Raises RequestError unless they are of
    these two bundles, with at least 400 examples of a kind; BundleError if nothing was rounded.
    """
    opened = Bundle.open(bundle)
    certificate = opened.manifest.certificate
    if certificate is None or certificate.rounding is None:
        raise BundleError(f"{bundle} has no certificate of rounding: quantise a bundle first")
    first, second = read_report(before), read_report(after)
    if first.bundle != certificate.rounding.source or second.bundle != opened.id:
        raise RequestError(
            f"scores of {first.bundle} and {second.bundle}, but the bundles are "
            f"{certificate.rounding.source} (unrounded) and {opened.id}"
        )
    if second.count < FEWEST_EXAMPLES:
        raise RequestError(
            f"scores of {second.count} examples of a kind say too little: "
            f"run omni-rt score with --count {FEWEST_EXAMPLES} or more"
        )
    found = behaviour(first, second)
    rounding = replace(certificate.rounding, behaviour=found)
    manifest = replace(opened.manifest, certificate=replace(certificate, rounding=rounding))
    replace_manifest(manifest, bundle)
    return found
