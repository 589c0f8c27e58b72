"""How large a rounded model is, from shapes alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from omni_rt.bundle import Bundle
from omni_rt.calibration.sizes import bundle_bytes, configured_bytes
from omni_rt.errors import ExportError
from omni_rt.export.reference.from_bundle import sizes_of
from omni_rt.targets import TARGETS, Target
from tests.calibration.small import miniature_sizes, the_miniature

UNROUNDED = Target(name="none", library="onnxruntime", formats={}, about="nothing is rounded")


def test_weights_that_two_stages_hold_in_one_format_are_counted_once() -> None:
    bundle = the_miniature()
    stages, sizes = ("thinker_cond", "thinker_lm"), sizes_of(bundle)
    both = bundle_bytes(stages, sizes, replace(UNROUNDED, formats=dict.fromkeys(stages, "int4")))
    apart = bundle_bytes(
        stages, sizes, replace(UNROUNDED, formats={"thinker_cond": "uint8", "thinker_lm": "int4"})
    )
    assert both[1].shared_with == "thinker_cond"
    assert apart[1].shared_with is None
    assert sum(s.rounded for s in both) < sum(s.rounded for s in apart)
    assert sum(s.fp32 for s in both) < sum(s.fp32 for s in apart)


def test_unrounded_it_is_what_the_files_hold(unrounded_size: dict[str, int]) -> None:
    """But for alignment, tables that the graphs fold, and weights stored in 16 bits or not."""
    bundle = the_miniature()
    found = {s.stage: s for s in bundle_bytes(("dit_step",), sizes_of(bundle), UNROUNDED)}
    assert found["dit_step"].rounded == pytest.approx(unrounded_size["graphs/dit.data"], rel=0.02)


@pytest.fixture
def unrounded_size() -> dict[str, int]:
    return {path: file.size_bytes for path, file in the_miniature().manifest.files.items()}


def test_each_format_takes_the_bytes_it_says() -> None:
    bundle = the_miniature()
    sizes, stages = sizes_of(bundle), ("dit_step",)
    bytes_of = {
        format: bundle_bytes(stages, sizes, replace(UNROUNDED, formats={"dit_step": format}))[0]
        for format in ("uint8", "fp8", "int4", "int4-128")
    }
    scales = bytes_of["int4"].rounded - bytes_of["int4-128"].rounded  # half of the narrower blocks'
    nibbles = bytes_of["int4-128"].rounded - scales
    assert 0 < scales < nibbles / 8
    assert bytes_of["uint8"].rounded == bytes_of["fp8"].rounded
    assert bytes_of["int4"].rounded < 0.62 * bytes_of["uint8"].rounded
    assert bytes_of["uint8"].rounded < 0.3 * bytes_of["uint8"].fp32


@pytest.fixture
def packaged() -> Bundle:
    from omni_rt import miniature

    return Bundle.open(miniature())


def test_a_configuration_that_is_none_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        configured_bytes(tmp_path / "nothing.json", None, TARGETS["cpu"])


def test_of_a_bundle_in_fp32_what_is_not_rounded_stays_in_fp32() -> None:
    """Rounding a stage saves as much in both; the rest is as wide as it was."""
    sizes, both = miniature_sizes(), ("dit_step", "vae_decoder")
    wide = bundle_bytes(both, sizes, UNROUNDED, half=False)
    assert [s.rounded for s in wide] == [s.fp32 for s in wide]
    step, decoder = bundle_bytes(both, sizes, TARGETS["cpu"], half=False)
    assert step.rounded < 0.5 * step.fp32
    assert decoder.rounded == decoder.fp32
