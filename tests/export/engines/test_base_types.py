"""16-bit types: fp16 where everything is known to fit, else bf16, and why."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from omni_rt import miniature
from omni_rt.bundle import Bundle
from omni_rt.export.engines.base_types import FP16_MAX, HEADROOM, USUAL, base_type_of
from omni_rt.manifest import Manifest

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
