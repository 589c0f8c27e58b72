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


def report(
    bundle: str,
    right: str,
    *,
    count: int = 400,
    plan: str = "euler-100",
    kind: str = "note",
    model_id: str = "",
) -> ScoreReport:
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
        kinds=(summarised(kind, scores, seconds=1.0), not_scored("chord", "lacking", "a stage")),
        model_id=model_id,
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
    with pytest.raises(RequestError, match="no kind in common"):
        behaviour(report("a", "1"), report("b", "1", kind="clicks"))


def test_answers_depend_on_no_plan() -> None:
    found = behaviour(
        report("a", "1", kind="ask_note"), report("b", "1", kind="ask_note", plan="ab3-25")
    )
    assert found["ask_note"].plan == ""
    assert behaviour(report("a", "1"), report("b", "1"))["note"].plan == "euler-100"


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
        source_model_id="model",
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


def test_a_second_writing_leaves_the_kinds_of_the_first(quantised: Path, tmp_path: Path) -> None:
    """Sounds and questions are scored apart; writing either gives the bundle another id."""
    model_id = Bundle.open(quantised).model_id
    for kind in ("note", "ask_note"):
        before = written(report("x", "1", kind=kind, model_id="model"), tmp_path / "before.json")
        after = written(report("y", "1", kind=kind, model_id=model_id), tmp_path / "after.json")
        assert [*add_behaviour(quantised, before, after)] == [kind]
    certificate = Bundle.open(quantised).manifest.certificate
    assert certificate is not None
    assert certificate.rounding is not None
    assert [*certificate.rounding.behaviour] == ["note", "ask_note"]


def test_scores_stay_a_models_own_when_its_plans_or_presets_change(
    quantised: Path, tmp_path: Path
) -> None:
    opened = Bundle.open(quantised)
    after = written(report(opened.id, "1", model_id=opened.model_id), tmp_path / "after.json")
    changed = replace(opened.manifest, default_plan="euler-3", plans={})
    (quantised / "manifest.json").write_text(manifest_text(changed), encoding="utf-8")
    assert Bundle.open(quantised).id != opened.id
    other_id = written(report("fitted", "1", model_id="model"), tmp_path / "before.json")
    assert "note" in add_behaviour(quantised, other_id, after)


def test_older_scores_are_known_by_the_bundles_id_alone(quantised: Path, tmp_path: Path) -> None:
    opened = Bundle.open(quantised)
    before = written(report("source", "1"), tmp_path / "before.json")
    fitted = written(report("fitted", "1"), tmp_path / "fitted.json")
    after = written(report(opened.id, "1", model_id=opened.model_id), tmp_path / "after.json")
    with pytest.raises(RequestError, match=r"the file is from before models had ids.*score again"):
        add_behaviour(quantised, fitted, after)
    assert "note" in add_behaviour(quantised, before, after)


def test_scores_of_other_bundles_or_too_few_are_refused(quantised: Path, tmp_path: Path) -> None:
    own = Bundle.open(quantised).id
    before = written(report("source", "1"), tmp_path / "before.json")
    other = written(report("other", "1"), tmp_path / "other.json")
    few = written(report(own, "1", count=50), tmp_path / "few.json")
    text = (quantised / "manifest.json").read_text()
    model = written(report("source", "1", model_id="another"), tmp_path / "model.json")
    with pytest.raises(RequestError, match="scores of bundle other, but this bundle is"):
        add_behaviour(quantised, before, other)
    with pytest.raises(RequestError, match="scores of model another, but what this was rounded"):
        add_behaviour(quantised, model, before)
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
