"""Costs that are counted from sizes, against what torch counts and what the formats really take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from omni_rt.architecture import Architecture
from omni_rt.bundle import Bundle
from omni_rt.calibration.sizes import configured_bytes
from omni_rt.devices import DEVICES
from omni_rt.errors import ExportError
from omni_rt.export.configured import (
    configured_architecture,
    configured_sizes,
    configured_stages,
)
from omni_rt.export.contract import dims_of
from omni_rt.export.tracing import StageSizes
from omni_rt.memory_plan import Job, make_memory_plan
from omni_rt.packaged import miniature
from omni_rt.plans import make_plan
from omni_rt.roofline import request_sizes, stage_flops, weight_bytes
from omni_rt.targets import TARGETS, target_as_asked
from tests.conftest import REPOSITORY

MINIATURE = REPOSITORY / "miniature/checkpoint"


@pytest.fixture(scope="module")
def official_config(golden: Path) -> Path:
    return golden / "official-config.json"


@pytest.fixture(scope="module")
def official_thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sizes of Qwen2.5-Omni-3B's thinker (spec THINKER §0)."""
    text = {
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 11_008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    audio = {
        "d_model": 1280,
        "encoder_layers": 32,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "output_dim": 2048,
    }
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "out_hidden_size": 2048,
    }
    parts = {"text_config": text, "audio_config": audio, "vision_config": vision}
    path = tmp_path_factory.mktemp("thinker") / "config.json"
    path.write_text(json.dumps({"thinker_config": parts}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def sizes(official_config: Path, official_thinker: Path) -> StageSizes:
    return configured_sizes(official_config, official_thinker)


@pytest.fixture(scope="module")
def official(official_config: Path, official_thinker: Path) -> Architecture:
    return configured_architecture(official_config, official_thinker)


def flops_in_torch(sizes: StageSizes, name: str, of_request: dict[str, int]) -> int:
    """What torch counts for a stage on tensors without storage."""
    stage = sizes.stage(name)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        inputs: list[Any] = [
            torch.zeros(
                [of_request[n] if isinstance(n, str) else n for n in port.shape],
                dtype=getattr(torch, port.dtype),
            )
            for port in stage.ports.inputs
        ]
        if stage.listed:
            inputs = [*inputs[: -stage.listed], inputs[-stage.listed :]]
        stage.module.to("meta")(*inputs)
    return counter.get_total_flops()


# What is left out of each count, as a part of it: of the step its embeddings and projections; of
# the towers and Synchformer attention, against merging and aggregating at fewer rows; `context`'s
# projection of the thinker's states and `signal`'s tables run at other rows than the rest.
@pytest.mark.parametrize(
    ("stage", "off_by"),
    [
        ("audio_tower", 0.05),
        ("vision_tower", 0.05),
        ("thinker_cond", 0.001),
        ("thinker_lm", 0.001),
        ("synchformer", 0.05),
        ("context", 0.01),
        ("signal", 0.1),
        ("dit_step", 0.0001),
        ("vae_decoder", 0.0),
        ("vae_encoder", 0.0),
    ],
)
def test_operations_are_what_torch_counts(
    official: Architecture, sizes: StageSizes, stage: str, off_by: float
) -> None:
    of_request = request_sizes(official.dims)
    counted = flops_in_torch(sizes, stage, of_request)
    assert stage_flops(official, stage, of_request) == pytest.approx(counted, rel=off_by)


def test_a_transcript_is_counted_once_per_character_at_most(
    official: Architecture, sizes: StageSizes
) -> None:
    of_request = request_sizes(official.dims)
    counted = flops_in_torch(sizes, "transcript", of_request)
    assert counted < stage_flops(official, "transcript", of_request) < 2 * counted


@pytest.mark.parametrize("target", ["orin", "rtx4090"])
def test_weights_take_what_their_formats_take(
    official: Architecture, official_config: Path, official_thinker: Path, target: str
) -> None:
    """But for scales, vectors and what is not rounded: of Synchformer an aggregator, 8 %."""
    computed = {
        found.stage: found.rounded
        for found in configured_bytes(official_config, official_thinker, TARGETS[target])
        if found.shared_with is None
    }
    formats = DEVICES[target].formats
    estimated = {stage: weight_bytes(official, stage, formats.get(stage)) for stage in computed}
    assert estimated == pytest.approx(computed, rel=0.08)
    assert sum(estimated.values()) == pytest.approx(sum(computed.values()), rel=0.01)


def test_the_official_model_takes_at_most_6_9_gb_on_orin(
    official_config: Path, official_thinker: Path
) -> None:
    """Conditioning and answers share one file of 4 bits, towers are in 8: weights and scales."""
    found = {
        stage.stage: stage
        for stage in configured_bytes(official_config, official_thinker, TARGETS["orin"])
    }
    assert found["thinker_lm"].shared_with == "thinker_cond"
    assert {found[s].format for s in ("audio_tower", "vision_tower", "dit_step")} == {"int8"}
    assert sum(stage.rounded for stage in found.values()) <= 6.9e9
    words = [found[s] for s in ("thinker_embed", "thinker_cond", "thinker_lm")]
    assert sum(s.rounded for s in words) <= 0.16 * sum(s.fp32 for s in words)
    assert found["dit_step"].rounded <= 0.265 * found["dit_step"].fp32


def test_wide_blocks_of_4_bits_leave_room_for_what_is_not_counted(
    official_config: Path, official_thinker: Path
) -> None:
    """Centring's vectors and files' padding: of the step at most 3 MB (docs/QUANTISE.md)."""
    target = target_as_asked("orin", int4_block=128)
    found = configured_bytes(official_config, official_thinker, target)
    assert sum(stage.rounded for stage in found) <= 6.9e9 - 90e6


def test_the_estimate_covers_builds_that_were_made(official: Architecture) -> None:
    """Engine, activation memory in MB of FP8 and INT8 builds (spec QUANTISATION §2)."""
    per_block = official.weights["dit_step"] / official.dims.depth
    job = Job(plan=make_plan("euler-1"))
    for depth, target, engine, activation in (
        (4, "rtx4090", 307, 70),
        (12, "rtx4090", 919, 97),
        (12, "orin", 924, 65),
    ):
        model = replace(
            official,
            dims=replace(official.dims, depth=depth),
            weights={"dit_step": round(depth * per_block)},
        )
        plan = make_memory_plan(model, DEVICES[target], job, memory="resident")
        found = plan.stages["dit_step"].memory
        assert found.weights / 1e6 == pytest.approx(engine, rel=0.05)  # the stem is not per block
        assert activation < found.activation / 1e6 < 4 * activation


def test_a_bundle_and_its_configuration_cost_the_same() -> None:
    """Counted in graphs or in modules; graphs hold scales and folded tables besides."""
    bundle = Bundle.open(miniature())
    ours = Architecture.of_bundle(bundle)
    sizes = configured_sizes(MINIATURE / "config.json", MINIATURE / "qwen/config.json")
    assert (ours.encoder, ours.decoder) == configured_levels(MINIATURE / "config.json")
    modules = {
        stage: sum(p.numel() for p in sizes.stage(stage).module.parameters())
        for stage in ("thinker_cond", "thinker_lm", "vision_tower", "audio_tower")
    }
    for stage, count in modules.items():
        # the audio tower's table of positions is 4.1 %, scales and factors are 1 %
        assert ours.weights[stage] == pytest.approx(count, rel=0.06), stage


def configured_levels(config: Path) -> tuple[object, object]:
    found = configured_architecture(config, None)
    return found.encoder, found.decoder


def test_without_a_thinker_the_rest_is_counted(official_config: Path) -> None:
    sizes = configured_sizes(official_config, None)
    assert dims_of(sizes.model).thinker is None
    assert "thinker_lm" not in configured_stages(sizes)
    assert "dit_step" in configured_architecture(official_config, None).weights


def test_a_configuration_that_is_none_is_one_error(tmp_path: Path, official_config: Path) -> None:
    with pytest.raises(ExportError):
        configured_architecture(tmp_path / "nothing.json", None)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ExportError, match="must hold an object"):
        configured_architecture(official_config, tmp_path / "list.json")
