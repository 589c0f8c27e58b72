"""The random step is rounded as a real one is, all of it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from omni_rt.bundle import Bundle
from omni_rt.calibration.random_step import write_random_step
from omni_rt.errors import ExportError
from omni_rt.export.config import parse_config
from omni_rt.export.engines.patterns import expected_of
from omni_rt.export.standin import standin_config
from omni_rt.targets import target_named


@pytest.mark.parametrize(("target", "products"), [("rtx4090", 12), ("orin", 8)])
def test_every_matrix_of_a_block_is_rounded_and_on_fp8_its_attentions(
    target: str, products: int, tmp_path: Path
) -> None:
    """8 matrices, and on FP8 both products of both attentions."""
    config = parse_config(standin_config())
    out = write_random_step(tmp_path / "step", config, target_named(target), depth=1)
    bundle = Bundle.open(out)
    assert bundle.manifest.dims.depth == 1
    (spec,) = bundle.manifest.graphs.values()
    assert spec.precision == ("fp8" if target == "rtx4090" else "int8")
    graph = ir.load(bundle.path(spec.path)).graph
    assert len(expected_of(graph).products) == products
    assert [path.name for path in tmp_path.iterdir()] == ["step"]


def test_more_blocks_than_any_model_has_are_one_error(tmp_path: Path) -> None:
    config, target = parse_config(standin_config()), target_named("cpu")
    with pytest.raises(ExportError, match="depth must be 1 to 256"):
        write_random_step(tmp_path / "step", config, target, depth=10**9)
    assert list(tmp_path.iterdir()) == []
