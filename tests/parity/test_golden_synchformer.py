"""Synchformer, unregrouped and as an exported graph, reproduces the original's sync features."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_rt.engines.ort import OrtEngine
from omni_rt.export.checkpoint import LazyTensor
from omni_rt.export.graphs import OPSET, traced_bytes, write_graph
from omni_rt.export.reference.synchformer import (
    Synchformer,
    SynchformerSizes,
    load_synchformer,
    open_synchformer,
    synchformer_shapes,
)
from omni_rt.export.stage_weights import stage_weights
from omni_rt.export.synchformer_stage import synchformer_stage
from omni_rt.export.weight_file import WeightFile
from omni_rt.manifest import GraphSpec

Arrays = Mapping[str, np.ndarray]
Network = tuple[SynchformerSizes, dict[str, LazyTensor]]

FEATURES = 2e-5  # spec SYNCHFORMER §6: max abs, fp32; the features' deviation is about 1.2
BATCH = 5e-6  # the order of additions depends on the batch; a quarter of the above
TINY_HEADS, FULL_HEADS = 4, 12


def worst(found: np.ndarray | Tensor, wanted: np.ndarray | Tensor) -> float:
    one, two = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert one.shape == two.shape
    return float(np.abs(one - two).max())


def segments(video: np.ndarray) -> Tensor:
    """Video [F, 3, px, px] uint8 → [S, 16, 3, px, px] in [-1, 1], every 8 frames (spec §2, §3)."""
    scaled = (torch.from_numpy(video).float() / 255 - 0.5) / 0.5
    return torch.stack([scaled[i : i + 16] for i in range(0, len(video) - 15, 8)])


def graph(network: Network, folder: Path) -> OrtEngine:
    """The network's stage, exported and loaded."""
    sizes, tensors = network
    stage = synchformer_stage(sizes)
    file = WeightFile(folder / stage.data_file)
    weights = stage_weights(stage, tensors)
    write_graph(stage, traced_bytes(stage), weights, file=file, fold_id="fp32")
    file.close()
    spec = GraphSpec(
        path="synchformer.onnx",
        data=(stage.data_file,),
        precision="fp32",
        opset=OPSET,
        fold_id="fp32",
        inputs=stage.ports.inputs,
        outputs=stage.ports.outputs,
    )
    return OrtEngine(folder / spec.path, spec, threads=None)


@pytest.fixture(scope="module")
def tiny(golden: Path) -> Network:
    path = golden / "synchformer" / "synchformer_tiny_state_dict.pth"
    return open_synchformer(path, heads=TINY_HEADS)


@pytest.fixture(scope="module")
def tiny_arrays(golden: Path) -> Arrays:
    return dict(np.load(golden / "synchformer" / "tiny_input_output.npz"))


@pytest.fixture
def reference(tiny: Network) -> Synchformer:
    return load_synchformer(*tiny)


@pytest.fixture(scope="module")
def tiny_graph(tiny: Network, tmp_path_factory: pytest.TempPathFactory) -> OrtEngine:
    return graph(tiny, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def recipe(golden: Path) -> ModuleType:
    """Seeded weights and video of the official size."""
    spec = importlib.util.spec_from_file_location("recipe", golden / "synchformer" / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def full_arrays(golden: Path) -> Arrays:
    return dict(np.load(golden / "synchformer" / "full_recipe_output.npz"))


@pytest.fixture(scope="module")
def full(golden: Path, recipe: ModuleType) -> Network:
    """The recipe's network; its weights are made when they are asked for."""
    keys = json.loads((golden / "synchformer" / "full_visual_keys.json").read_text("utf-8"))
    tensors = {
        name: LazyTensor(
            shape=tuple(shape), dtype="float32", load=partial(recipe_weight, recipe, name, shape)
        )
        for name, shape in keys.items()
        if ".patch_embed." not in name
    }
    return SynchformerSizes.from_tensors(tensors, heads=FULL_HEADS), tensors


def recipe_weight(recipe: ModuleType, name: str, shape: list[int]) -> Tensor:
    return torch.from_numpy(recipe.weights(name, tuple(shape)))


def test_reference_features(reference: Synchformer, tiny_arrays: Arrays) -> None:
    found = reference(segments(tiny_arrays["video_u8"]))
    assert worst(found, tiny_arrays["features"]) <= FEATURES
    assert worst(found, tiny_arrays["features_fp64"]) <= FEATURES


def test_reference_intermediates(reference: Synchformer, tiny_arrays: Arrays, golden: Path) -> None:
    wanted = np.load(golden / "synchformer" / "tiny_intermediates_seg1.npz")
    places = {
        "patch_tokens": "patch_embed_3d",
        "b0_timeattn_out": "blocks.0.timeattn",
        "b0_spaceattn_out": "blocks.0.attn",
        "b0_out": "blocks.0",
        "b2_out": "blocks.2",
        "final_norm": "norm",
        "agg_out": "spatial_attn_agg",
    }
    found: dict[str, Tensor] = {}
    for name, place in places.items():
        reference.get_submodule(place).register_forward_hook(keeping(found, name))
    reference.blocks[0].register_forward_pre_hook(
        lambda _, inputs: found.update(after_pos=inputs[0])
    )
    reference(segments(tiny_arrays["video_u8"])[1:2])
    assert found.keys() == set(wanted.files)
    for name, value in found.items():
        assert worst(value.reshape(wanted[name].shape), wanted[name]) <= FEATURES, name


def keeping(found: dict[str, Tensor], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        found[name] = output

    return keep


def test_reference_treats_segments_alone(reference: Synchformer, tiny_arrays: Arrays) -> None:
    frames = segments(tiny_arrays["video_u8"])
    assert worst(reference(frames[:1]), reference(frames)[:8]) <= BATCH


def other_eps(reference: Synchformer, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in reference.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def tanh_gelu(reference: Synchformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "gelu", partial(F.gelu, approximate="tanh"))


def exchanged_norms(reference: Synchformer, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in reference.blocks:
        block.norm1, block.norm3 = block.norm3, block.norm1


@pytest.mark.parametrize(
    ("mistake", "at_least"), [(other_eps, 5e-5), (tanh_gelu, 2e-4), (exchanged_norms, 0.1)]
)
def test_the_tolerance_catches(
    mistake: Callable[[Synchformer, pytest.MonkeyPatch], None],
    at_least: float,
    reference: Synchformer,
    tiny_arrays: Arrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mistake(reference, monkeypatch)
    found = reference(segments(tiny_arrays["video_u8"]))
    assert worst(found, tiny_arrays["features"]) > at_least > 2 * FEATURES


@pytest.mark.slow
def test_graph_features(tiny_graph: OrtEngine, tiny_arrays: Arrays) -> None:
    found = tiny_graph.run(frames=segments(tiny_arrays["video_u8"]).numpy())["sync"]
    assert worst(found, tiny_arrays["features"]) <= FEATURES


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 30])
def test_graph_takes_any_number_of_segments(
    count: int, tiny_graph: OrtEngine, tiny_arrays: Arrays
) -> None:
    frames = segments(tiny_arrays["video_u8"])
    three = tiny_graph.run(frames=frames.numpy())["sync"]
    found = tiny_graph.run(frames=frames.repeat(10, 1, 1, 1, 1)[:count].numpy())["sync"]
    assert worst(found, np.tile(three, (10, 1))[: 8 * count]) <= BATCH


def test_recipe_has_the_official_names(
    full: Network, full_arrays: Arrays, recipe: ModuleType
) -> None:
    sizes, tensors = full
    assert synchformer_shapes(sizes) == {name: tensor.shape for name, tensor in tensors.items()}
    first = dict(zip(full_arrays["check_keys"], full_arrays["check_first8"], strict=True))
    name = "vfeat_extractor.spatial_attn_agg.norm2.weight"
    assert np.array_equal(tensors[name].load()[:8].numpy(), first[name])


@pytest.mark.slow
def test_reference_features_of_official_size(
    full: Network, full_arrays: Arrays, recipe: ModuleType
) -> None:
    found = load_synchformer(*full)(segments(recipe.video(24)))
    assert worst(found, full_arrays["features"]) <= FEATURES


@pytest.mark.slow
def test_graph_features_of_official_size(
    full: Network, full_arrays: Arrays, recipe: ModuleType, tmp_path: Path
) -> None:
    engine = graph(full, tmp_path)
    found = engine.run(frames=segments(recipe.video(24)).numpy())["sync"]
    assert worst(found, full_arrays["features"]) <= FEATURES
