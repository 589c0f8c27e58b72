"""The miniature from rounding to engines of every stage, for each kind of GPU, by the compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omni_rt.bundle import Bundle
from omni_rt.calibration.inputs import calibration_set
from omni_rt.calibration.quantise import QuantiseOptions, round_bundle
from omni_rt.export.engines.bundle_engines import BuildOptions, build_engines
from omni_rt.export.engines.profiles import Buckets
from omni_rt.manifest import TargetEngines

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: omni_rt[rtx]")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]

FEW = Buckets(contexts=(64,), requests=1)
BLOCKS, PROFILES = 3, 2  # unguided and guided
MATRICES = 8  # of a block that the step multiplies by; keys and values are made in `context`
ALONE = 2  # of all these, matrices that are rounded while what they read is not
HOW: dict[str, dict[str, Any]] = {
    "rtx4090": {"target": "rtx4090", "weights_only": ("*layers.1.ff.*",)},
    "int8": {"target": "rtx4090", "int8": True},
    "orin": {"target": "orin"},
}


@pytest.fixture(scope="module")
def rounded(unrounded_miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles by how they are rounded: as quickly observed as may be, so that none is certified."""
    source, folder = Bundle.open(unrounded_miniature), tmp_path_factory.mktemp("rounded")
    dims, stages = source.manifest.dims, source.manifest.graphs
    cases = calibration_set(dims, stages, per_task=1, seed=0, folder=folder / "cases")
    return {
        name: round_bundle(
            source,
            cases,
            cases,
            QuantiseOptions(
                bundle=source.directory,
                out=folder / name,
                ranges=folder / "ranges.npz",
                sampled=1,
                steps=2,
                certify_steps=2,
                **how,
            ),
        )
        for name, how in HOW.items()
    }


def engines_of(bundle: Path, out: Path, target: str, **how: object) -> TargetEngines:
    build_engines(BuildOptions(bundle=bundle, out=out, target=target, buckets=FEW, **how))  # type: ignore[arg-type]
    return Bundle.open(out).manifest.engines[target]


@pytest.mark.parametrize("target", ["rtx4090", "rtx5090"])
def test_every_stage_is_an_fp8_engine_for_rtx_cards(
    rounded: dict[str, Path], target: str, tmp_path: Path
) -> None:
    engines = engines_of(rounded["rtx4090"], tmp_path / "built", target)
    bundle = Bundle.open(tmp_path / "built")
    assert engines.stages.keys() == bundle.manifest.graphs.keys()
    assert engines.known == "compiled and proved, not run"
    step = engines.stages["dit_step"]
    attentions = 2 * BLOCKS
    assert step.rounded_products == MATRICES * BLOCKS - ALONE + 2 * attentions
    assert step.fused_attentions == step.attentions == attentions
    assert len(step.profiles) == PROFILES


def test_8_bit_integers_are_an_engine_for_rtx_cards(
    rounded: dict[str, Path], tmp_path: Path
) -> None:
    engines = engines_of(rounded["int8"], tmp_path / "built", "rtx4090", stages=("dit_step",))
    step = engines.stages["dit_step"]
    assert step.rounded_products == MATRICES * BLOCKS
    assert step.fused_attentions == step.attentions == 2 * BLOCKS


def test_every_stage_is_an_int8_engine_for_the_nearest_relative_of_an_orin(
    rounded: dict[str, Path], tmp_path: Path
) -> None:
    engines = engines_of(
        rounded["orin"], tmp_path / "built", "orin", library="tensorrt_rtx",
        compute_capability="8.6",
    )  # fmt: skip
    assert engines.stages.keys() == Bundle.open(tmp_path / "built").manifest.graphs.keys()
    step = engines.stages["dit_step"]
    assert step.rounded_products == MATRICES * BLOCKS
    assert step.fused_attentions == step.attentions == 2 * BLOCKS
