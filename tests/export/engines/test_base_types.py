"""16-bit types: fp16 where everything is known to fit, else bf16, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from omni_rt import miniature
from omni_rt.base_types import FP16_MAX, HEADROOM, USUAL
from omni_rt.bundle import Bundle
from omni_rt.export.engines.base_types import base_type_of
from omni_rt.export.engines.graph_files import prepare
from omni_rt.manifest import Manifest
from tests.calibration.small import quick_miniature

from .graphs import GraphBuilder


def manifest(**largest: float) -> Manifest:
    """The packaged miniature's, as if so much had been observed."""
    found = Bundle.open(miniature()).manifest
    assert found.certificate is not None
    assert found.certificate.rounding is not None
    rounding = replace(found.certificate.rounding, largest=largest)
    return replace(found, certificate=replace(found.certificate, rounding=rounding))


def with_weight(value: float, dtype: type = np.float32) -> GraphBuilder:
    build = GraphBuilder()
    build.constant("w", np.array([[1.0, -value]], np.float32).astype(dtype))
    return build


@pytest.mark.parametrize("stage", ["dit_step", "context", "synchformer"])
def test_what_fits_stays_in_fp16_and_what_may_not_is_in_bf16(stage: str) -> None:
    graph = with_weight(3.0).graph
    inside, beyond = FP16_MAX / HEADROOM, 1.01 * FP16_MAX / HEADROOM
    fits = base_type_of(manifest(**{stage: inside}), stage, graph)
    assert (fits.base, fits.reason) == ("float16", "")
    wide = base_type_of(manifest(**{stage: beyond}), stage, graph)
    assert wide.base == "bfloat16"
    assert "3.31e+04" in wide.reason


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_weight_beyond_fp16_decides_for_bf16_by_name(dtype: type) -> None:
    found = base_type_of(manifest(dit_step=1.0), "dit_step", with_weight(7e4, dtype).graph)
    assert found.base == "bfloat16"
    assert found.reason.startswith("w holds 7")


def test_where_nothing_was_observed_the_usual_type_stands_and_says_so() -> None:
    for given in (manifest(), replace(manifest(), certificate=None)):
        found = base_type_of(given, "vae_decoder", with_weight(1.0).graph)
        assert (found.base, found.reason) == ("float16", "no products were observed")


def test_stages_that_are_never_in_fp16_need_no_check() -> None:
    for stage, usual in USUAL.items():
        if usual != "float16":
            found = base_type_of(manifest(**{stage: 1e9}), stage, with_weight(1e9).graph)
            assert (found.base, found.reason) == (usual, "")


@pytest.mark.parametrize(("largest", "base"), [(10.0, "FLOAT16"), (4e4, "BFLOAT16")])
def test_a_layer_that_overflows_fp16_is_compiled_in_bf16_with_wide_ports(
    largest: float, base: str, tmp_path: Path
) -> None:
    bundle = Bundle(quick_miniature().directory, manifest(dit_step=largest))
    unrounded = replace(bundle.manifest, graphs=quick_miniature().manifest.graphs)
    made = prepare(Bundle(bundle.directory, unrounded), "dit_step", tmp_path)
    graph = ir.load(made.path).graph
    others = {"FLOAT16", "BFLOAT16"} - {base}
    types = {value.dtype.name for node in graph for value in node.outputs if value.dtype}
    assert base in types
    assert not types & others
    narrow_ports = {p.name for p in graph.inputs if p.dtype == ir.DataType.FLOAT16}
    assert ("k_00" in narrow_ports) == (base == "FLOAT16")
    assert not [p.name for p in graph.inputs if p.dtype == ir.DataType.BFLOAT16]
    assert bool(made.base.reason) == (base == "BFLOAT16")
