"""The default preset: the cheapest within the teacher's own seed-to-seed spread."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from omni_rt.bundle import Bundle
from omni_rt.errors import BundleError
from omni_rt.manifest import Manifest
from omni_rt.preset_record import MeasuredPreset, PresetRecord, SeedSpread
from tests.runtime.tiny_bundle import certificate_of, rewrite, write_tiny_bundle

FAITHFUL = MeasuredPreset(
    plan="euler-100",
    plan_sha256=None,
    passes=200,
    latents=0.02,
    log_mel=0.01,
    drops={"note": 0.0, "remove": 0.0},
)
FAST = MeasuredPreset(
    plan="ls3-8",
    plan_sha256="abc",
    passes=16,
    latents=0.1,
    log_mel=0.2,
    drops={"note": 1.0, "remove": -0.5},
)
RECORD = PresetRecord(
    graphs={},
    teacher=None,
    engine="onnxruntime",
    cfg_scale=7.0,
    reference="euler-400",
    cases=("T2A/0",),
    inputs="digest",
    seed=0,
    count=400,
    spread=SeedSpread(log_mel=0.3, points={"note": 2.0, "remove": 1.0}),
    presets={"faithful": FAITHFUL, "fast": FAST},
)


def with_fast(**changes: object) -> PresetRecord:
    fast = replace(FAST, **changes)  # type: ignore[arg-type]
    return replace(RECORD, presets={"faithful": FAITHFUL, "fast": fast})


def measured_with(manifest: Manifest, record: PresetRecord) -> PresetRecord:
    """The record as if it were measured on the graphs of a manifest whose files are listed."""
    return replace(record, graphs=certificate_of(manifest).graphs)


def test_the_cheapest_within_the_spread_is_the_default() -> None:
    assert RECORD.exceeded("fast") == ()
    assert RECORD.default == "fast"


@pytest.mark.parametrize(
    ("changes", "exceeded"),
    [
        ({"log_mel": 0.31}, ("log-mel",)),
        ({"drops": {"note": 2.1, "remove": -9.0}}, ("note",)),
        ({"log_mel": 9.0, "drops": {"note": 5.0, "remove": 5.0}}, ("log-mel", "note", "remove")),
    ],
)
def test_what_exceeds_it_anywhere_is_not(
    changes: dict[str, object], exceeded: tuple[str, ...]
) -> None:
    """A gain in one kind is not set against a loss in another."""
    record = with_fast(**changes)
    assert record.exceeded("fast") == exceeded
    assert record.default == "faithful"


def test_at_the_spread_is_within_it() -> None:
    assert with_fast(log_mel=0.3, drops={"note": 2.0, "remove": 1.0}).default == "fast"


def test_if_nothing_is_within_it_the_dearest_is_the_default() -> None:
    none = replace(RECORD, spread=SeedSpread(log_mel=0.0, points=RECORD.spread.points))
    assert none.default == "faithful"


def test_the_mean_drop_is_over_kinds() -> None:
    assert FAST.mean_drop == 0.25
    assert replace(FAST, drops={}).mean_drop is None


def test_a_record_of_other_graphs_or_plans_is_refused(tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path / "tiny")
    own = measured_with(manifest, replace(RECORD, presets={"faithful": FAITHFUL}))
    rewrite(tmp_path / "tiny", manifest, presets=own)
    assert Bundle.open(tmp_path / "tiny").manifest.presets == own
    rewrite(tmp_path / "tiny", manifest, presets=replace(own, presets=RECORD.presets))
    with pytest.raises(
        BundleError, match=r"another ls3-8: remove `presets` .*, then .*measure-presets"
    ):
        Bundle.open(tmp_path / "tiny")
    (tmp_path / "tiny/graphs/dit_step.data").write_bytes(b"other weights")
    rewrite(tmp_path / "tiny", manifest, presets=own)
    with pytest.raises(BundleError, match="measured with another dit_step"):
        Bundle.open(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"presets": {}}, "none were measured"),
        ({"spread": SeedSpread(log_mel=0.3, points={"note": 2.0})}, "without a spread: remove"),
    ],
)
def test_a_record_that_says_nothing_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    manifest = write_tiny_bundle(tmp_path / "tiny")
    record = replace(measured_with(manifest, RECORD), **changes)  # type: ignore[arg-type]
    rewrite(tmp_path / "tiny", manifest, presets=record)
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path / "tiny")
