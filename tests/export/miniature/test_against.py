"""What another score run is of, seen from a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from omni_rt.bundle import Bundle
from omni_rt.export.miniature.against import compared_with, relation
from omni_rt.export.miniature.report import ScoreReport, summarised
from omni_rt.export.miniature.tasks.result import scored
from tests.runtime.test_certificate_page import ROUNDING
from tests.runtime.tiny_bundle import certificate_of, rewrite, write_tiny_bundle


def report(bundle: str, model_id: str = "", *, right: str = "1111") -> ScoreReport:
    scores = [scored({"pitch": one == "1"}, {"pitch": 0.25}) for one in right]
    return ScoreReport(
        bundle=bundle,
        name="tiny",
        plan="euler-3",
        cfg_scale=7.0,
        seed=1,
        count=len(right),
        kinds=(summarised("note", scores, seconds=1.0),),
        model_id=model_id,
    )


@pytest.fixture
def rounded(tmp_path: Path) -> Bundle:
    """A bundle that was rounded from `source`, of model `exact`."""
    manifest = write_tiny_bundle(tmp_path)
    rounding = replace(ROUNDING, source="source", source_model_id="exact")
    certificate = replace(certificate_of(manifest), rounding=rounding)
    rewrite(tmp_path, manifest, certificate=certificate, files=manifest.files)
    return Bundle.open(tmp_path)


def test_a_run_is_of_the_source_by_its_model_and_not_by_its_manifest(rounded: Bundle) -> None:
    assert relation(report("fitted", "exact"), rounded) == "source"
    assert relation(report("source", "retrained"), rounded) == "another"
    assert relation(report("x", rounded.model_id), rounded) == "itself"


def test_an_older_run_is_known_by_its_bundle_or_not_at_all(rounded: Bundle) -> None:
    assert relation(report("source"), rounded) == "source"
    assert relation(report(rounded.id), rounded) == "itself"
    assert relation(report("fitted"), rounded) == "unknown"


def test_shares_chance_and_drop_stand_beside_each_other(rounded: Bundle) -> None:
    found = compared_with(report("s", "other"), report("own", right="1100"), rounded)
    note = found.kinds["note"]
    assert (note.reference, note.share, note.chance, note.drop) == (1.0, 0.5, 0.25, 50.0)
    assert note.upper >= note.drop
    assert "another model" in found.described
