"""Right answers before and after rounding, in the certificate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from omni_rt import strict_json
from omni_rt.bundle import Bundle
from omni_rt.calibration.behaviour import add_behaviour, behaviour
from omni_rt.errors import BundleError, RequestError
from omni_rt.export.miniature.report import ScoreReport, not_scored, summarised
from omni_rt.export.miniature.tasks.result import scored
from omni_rt.manifest import Certificate, Rounding, manifest_text
from tests.runtime.tiny_bundle import write_tiny_bundle


def report(bundle: str, right: str, *, count: int = 400, plan: str = "euler-100") -> ScoreReport:
    """Scores of one kind, right where the digits are 1, repeated up to `count`."""
    digits = (right * count)[:count]
    scores = [scored({"pitch": one == "1"}, {"pitch": 0.1}) for one in digits]
    return ScoreReport(
        bundle=bundle,
        name="tiny",
        plan=plan,
        cfg_scale=7.0,
        seed=1,
        count=count,
        kinds=(summarised("note", scores, seconds=1.0), not_scored("chord", "lacking", "a stage")),
    )


def test_equal_answers_lose_nothing_and_wrong_ones_fail() -> None:
    same = behaviour(report("a", "1110"), report("b", "1110"))
    assert list(same) == ["note"]  # what was not scored has no behaviour
    assert same["note"].share == same["note"].reference == 0.75
    assert same["note"].drop.value == 0
    assert same["note"].drop.passed
    worse = behaviour(report("a", "1111"), report("b", "1110"))["note"]
    assert worse.drop.value >= 25
    assert not worse.drop.passed


def test_runs_that_differ_in_more_than_the_bundle_are_refused() -> None:
    with pytest.raises(RequestError, match="differ in plan"):
        behaviour(report("a", "1"), report("b", "1", plan="ab3-25"))
    with pytest.raises(RequestError, match="other examples"):
        behaviour(report("a", "1"), report("b", "1", count=500))


@pytest.fixture
def quantised(tmp_path: Path) -> Path:
    """A bundle in form, with a certificate of rounding."""
    folder = tmp_path / "bundle"
    manifest = write_tiny_bundle(folder)
    certificate = manifest.certificate
    assert isinstance(certificate, Certificate)
    rounding = Rounding(
        target="cpu",
        source="source",
        inputs="digest",
        high_precision=(),
        sensitivity={},
        velocity=(),
        figures={},
        behaviour={},
    )
    changed = replace(manifest, certificate=replace(certificate, rounding=rounding))
    (folder / "manifest.json").write_text(manifest_text(changed), encoding="utf-8")
    return folder


def written(found: ScoreReport, path: Path) -> Path:
    path.write_text(json.dumps(strict_json.to_json(found)), encoding="utf-8")
    return path


def test_it_is_written_and_enforced(quantised: Path, tmp_path: Path) -> None:
    before = written(report("source", "1"), tmp_path / "before.json")
    after = written(report(Bundle.open(quantised).id, "1110"), tmp_path / "after.json")
    add_behaviour(quantised, before, after)
    bundle = Bundle.open(quantised)
    certificate = bundle.manifest.certificate
    assert certificate is not None
    assert certificate.failed() == ("note",)
    with pytest.raises(BundleError, match="the certificate fails for note"):
        bundle.require_certificate()


def test_scores_of_other_bundles_or_too_few_are_refused(quantised: Path, tmp_path: Path) -> None:
    own = Bundle.open(quantised).id
    before = written(report("source", "1"), tmp_path / "before.json")
    other = written(report("other", "1"), tmp_path / "other.json")
    few = written(report(own, "1", count=50), tmp_path / "few.json")
    text = (quantised / "manifest.json").read_text()
    with pytest.raises(RequestError, match="the bundles are source"):
        add_behaviour(quantised, before, other)
    with pytest.raises(RequestError, match="say too little"):
        add_behaviour(quantised, before, few)
    with pytest.raises(RequestError, match="holds no scores"):
        add_behaviour(quantised, before, tmp_path / "nothing.json")
    assert (quantised / "manifest.json").read_text() == text


def test_an_unrounded_bundle_has_none(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    write_tiny_bundle(folder)
    with pytest.raises(BundleError, match="no certificate of rounding"):
        add_behaviour(folder, tmp_path / "a.json", tmp_path / "b.json")
