"""Targets are data: stages and formats exist, and bounds say where they come from."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from omni_rt.contract import PORTS
from omni_rt.engines.registry import engine_names
from omni_rt.errors import RequestError
from omni_rt.manifest import Precision, ThinkerDims
from omni_rt.targets import (
    TARGETS,
    StageFormat,
    Target,
    rounded_bound,
    target_as_asked,
    target_named,
)
from tests.runtime.tiny_bundle import DIMS

NEEDED = ("cpu", "orin", "rtx4090", "rtx5090")
THINKER = ThinkerDims(
    layers=4,
    kv_heads=1,
    head_width=8,
    vocabulary=9,
    max_positions=64,
    mel_bands=128,
    chunk_frames=200,
    patch_px=14,
    temporal_patch=2,
    merge=2,
    window_px=112,
)
DEEP = replace(DIMS, depth=9, thinker=THINKER)
ROUNDED: tuple[Precision, ...] = ("int8", "fp8", "int4")


def test_the_devices_are_there_under_their_own_names() -> None:
    assert set(NEEDED) <= TARGETS.keys()
    assert all(target.name == name for name, target in TARGETS.items())
    assert target_named("cpu") is TARGETS["cpu"]


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_target_rounds_stages_that_exist_in_formats_that_exist(target: Target) -> None:
    assert target.formats.keys() <= PORTS.keys()
    assert set(target.formats.values()) <= set(get_args(StageFormat))
    assert target.about
    assert "dit_step" in target.formats  # else nothing is gained


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_is_folded_together_is_rounded_together(target: Target) -> None:
    """`context` divides what `dit_step` multiplies; a table has no activation to round."""
    assert {"context", "dit_step"} <= target.formats.keys()
    assert target.formats["thinker_embed"] == "int8"


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_the_autoencoder_stays_as_it_is(target: Target) -> None:
    """Its sines dominate, so rounding gains nothing (spec QUANTISATION §3)."""
    assert not {"vae_encoder", "vae_decoder", "signal", "transcript"} & target.formats.keys()


def test_the_processor_takes_unsigned_activations_and_runs_with_what_is_built_in() -> None:
    """ONNX Runtime's fast kernel is U8S8."""
    cpu = TARGETS["cpu"]
    assert cpu.library in engine_names()
    assert set(cpu.formats.values()) == {"uint8", "int8", "int4"}


@pytest.mark.parametrize("name", ["rtx4090", "rtx5090"])
def test_8_bit_integers_take_the_place_of_e4m3_and_of_nothing_else(name: str) -> None:
    own, asked = target_named(name).formats, target_as_asked(name, int8=True).formats
    changed = {stage: format for stage, format in asked.items() if format != own[stage]}
    assert changed == {stage: "int8" for stage, format in own.items() if format == "fp8"}


def test_blocks_of_4_bits_are_chosen_and_all_else_stays() -> None:
    for name, target in TARGETS.items():
        assert target_as_asked(name) == target
        wide = target_as_asked(name, int4_block=128).formats
        assert {s for s in wide if wide[s] != target.formats[s]} == {
            s for s, format in target.formats.items() if format == "int4"
        }
        assert wide["thinker_lm"] == "int4-128"


def test_what_cannot_be_asked_of_a_target_is_one_error() -> None:
    with pytest.raises(RequestError, match="orin rounds nothing to E4M3"):
        target_as_asked("orin", int8=True)
    with pytest.raises(RequestError, match="64 or 128 channels, not 32"):
        target_as_asked("cpu", int4_block=32)


@pytest.mark.parametrize("name", ["", "CPU", "cpu ", "rtx3090"])
def test_an_unknown_target_is_an_error_that_lists_them_all(name: str) -> None:
    with pytest.raises(RequestError) as error:
        target_named(name)
    assert repr(name) in str(error.value)
    assert all(known in str(error.value) for known in TARGETS)


@pytest.mark.parametrize("stage", PORTS)
def test_what_is_not_rounded_has_the_bound_of_any_graph(stage: str) -> None:
    unrounded = [p for p in get_args(Precision) if p not in ROUNDED]
    assert "fp32" in unrounded
    assert all(rounded_bound(precision, stage, DEEP) is None for precision in unrounded)


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("stage", PORTS)
def test_a_rounded_stage_has_a_bound_with_an_origin(stage: str, precision: Precision) -> None:
    found = rounded_bound(precision, stage, DEEP)
    assert found is not None
    bound, origin = found
    assert 0 < bound <= 0.5
    assert origin


def test_bounds_grow_with_the_root_of_the_depth_up_to_a_limit() -> None:
    def bound(precision: Precision, depth: int) -> float:
        found = rounded_bound(precision, "dit_step", replace(DEEP, depth=depth))
        assert found is not None
        return found[0]

    for precision in ROUNDED:
        assert bound(precision, 4) == pytest.approx(2 * bound(precision, 1))
        assert bound(precision, 10_000) == 0.5


def test_int8_is_held_to_what_the_issue_asks() -> None:
    """Per block .036, and .075 for a stack of four."""
    one, four = (rounded_bound("int8", "dit_step", replace(DEEP, depth=depth)) for depth in (1, 4))
    assert one is not None
    assert four is not None
    assert one[0] <= 0.036
    assert four[0] <= 0.075
