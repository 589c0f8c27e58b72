"""A stage as a torch module is an engine like any other, and the reference of its graph."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from omni_rt import Audio, Session
from omni_rt.bundle import Bundle
from omni_rt.engines import Array
from omni_rt.engines.ort import OrtEngine
from omni_rt.engines.registry import GROUP, engine_loader
from omni_rt.errors import BundleError, EngineError
from omni_rt.export.contract import STAGES
from omni_rt.export.reference.engine import TorchEngine, load_engine, without_tf32
from omni_rt.export.reference.from_bundle import sizes_of, stage_tensors
from omni_rt.manifest import Manifest
from omni_rt.metrics import rel_l2
from omni_rt.tasks import GENERATION, make_request
from omni_rt.uncertified import unsaid
from omni_rt.verify import END_TO_END_BOUND, stage_bound, stage_inputs
from tests.calibration.small import miniature_stage, quick_miniature

PLAN, PROMPT = "euler-2", "three clicks"

bundle = quick_miniature


def torch_engine(stage: str) -> TorchEngine:
    return TorchEngine(miniature_stage(stage))


def inputs_of(stage: str) -> dict[str, Array]:
    given = stage_inputs(bundle(), stage, bundle().parity(stage))
    return {name: np.asarray(value) for name, value in given.items()}


def graph_engine(stage: str) -> OrtEngine:
    spec = bundle().graph(stage)
    return OrtEngine(bundle().path(spec.path), spec, threads=1)


def test_fp32_is_fp32_whatever_the_process_asks_for_and_its_settings_are_put_back() -> None:
    backends: Any = torch.backends
    kinds = {"matmul": backends.cuda.matmul, "conv": backends.cudnn.conv}
    before = {name: kind.fp32_precision for name, kind in kinds.items()}
    seen: list[str] = []
    engine = torch_engine("signal")

    class Spy(nn.Module):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            seen.extend(kind.fp32_precision for kind in kinds.values())
            made: torch.Tensor = engine.stage.module(*inputs)
            return made

    spied = TorchEngine(replace(engine.stage, module=Spy()))
    try:
        for kind in kinds.values():
            kind.fp32_precision = "tf32"
        spied.run(**inputs_of("signal"))
        assert seen == ["ieee", "ieee"]
        assert [kind.fp32_precision for kind in kinds.values()] == ["tf32", "tf32"]
    finally:
        for name, kind in kinds.items():
            kind.fp32_precision = before[name]


def test_a_run_that_ends_leaves_tf32_off_for_one_that_goes_on() -> None:
    backends: Any = torch.backends
    before = backends.cudnn.conv.fp32_precision
    with without_tf32():
        with without_tf32():  # another thread's
            pass
        assert backends.cudnn.conv.fp32_precision == "ieee"
    assert backends.cudnn.conv.fp32_precision == before
    one, other = without_tf32(), without_tf32()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)  # the first to begin ends first
    assert backends.cudnn.conv.fp32_precision == "ieee"
    other.__exit__(None, None, None)
    assert backends.cudnn.conv.fp32_precision == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_rebuilt_stage_has_the_graphs_ports_and_computes_what_it_does(stage: str) -> None:
    """Bounds are those of the certificate, of the same weights."""
    engine, inputs = torch_engine(stage), inputs_of(stage)
    spec = bundle().graph(stage)
    assert [p.name for p in engine.inputs] == [p.name for p in spec.inputs]
    assert tuple(engine.outputs) == tuple(spec.outputs)
    made, graph = engine.run(**inputs), graph_engine(stage).run(**inputs)
    assert made.keys() == graph.keys()
    for name, value in made.items():
        assert value.dtype == graph[name].dtype
        assert rel_l2(value, graph[name]) < stage_bound(0)[0], name


@pytest.mark.parametrize("stage", STAGES)
def test_a_changed_weight_is_the_one_with_that_name(stage: str) -> None:
    """Every weight of the graph is offered once, in the module's layout."""
    offered: dict[str, tuple[int, ...]] = {}

    def change(name: str, value: torch.Tensor) -> torch.Tensor:
        offered[name] = tuple(value.shape)
        return 2 * value

    plain, changed = miniature_stage(stage), miniature_stage(stage, changed=change)
    tensors = stage_tensors(bundle(), stage)
    assert offered
    assert all(offered[name] == tensors[name].shape for name in offered)
    for path, value in plain.module.state_dict().items():
        if plain.official_name(path) in offered:
            assert torch.equal(changed.module.state_dict()[path], 2 * value)
    for path, layer in plain.module.named_modules():
        if isinstance(layer, nn.Linear):
            assert offered[plain.official_name(f"{path}.weight")] == tuple(layer.weight.shape)


def differing(session: Session) -> dict[str, np.ndarray]:
    """What a session makes of a request: the inputs of the model, latents and sound."""
    conditioning = session.encode(make_request("T2A", {"prompt": PROMPT}, among=GENERATION))
    dims = session.bundle.manifest.dims
    start = np.random.RandomState(0).standard_normal((1, dims.latent_channels, dims.latent_frames))
    latents = session.sample(conditioning, noise=start.astype(np.float32), plan=PLAN, cfg_scale=7.0)
    return {
        "hidden": conditioning.hidden,
        "latents": latents,
        "sound": session.decode(latents),
    }


def tone() -> Audio:
    return Audio(0.3 * np.sin(0.3 * np.arange(16_000, dtype=np.float32))[None], 8000)


def test_a_session_of_torch_stages_makes_the_same_sound() -> None:
    """Within the tolerance of certificates, stage by stage and end to end."""
    directory = bundle().directory
    with (
        unsaid(),
        Session(directory, engine=load_engine, allow_uncertified=True) as torch_session,
    ):
        made = differing(torch_session)
        answer = torch_session.understand("What do you hear?", audio=tone(), seed=1)
    with unsaid(), Session(directory, threads=1, allow_uncertified=True) as session:
        usual = differing(session)
        same = session.understand("What do you hear?", audio=tone(), seed=1)
    assert same.text == answer.text != ""
    floor = float(bundle().parity("vae_decoder").get("floor_waveform", np.zeros(())))
    assert rel_l2(made["hidden"], usual["hidden"]) < stage_bound(0)[0]
    assert rel_l2(made["latents"], usual["latents"]) < END_TO_END_BOUND
    assert rel_l2(made["sound"], usual["sound"]) < END_TO_END_BOUND + stage_bound(floor)[0]
    assert np.abs(usual["sound"]).max() > 0


def test_bound_buffers_are_read_and_written_in_place() -> None:
    engine, inputs = torch_engine("context"), inputs_of("context")
    wanted = engine.run(**inputs)
    buffers: dict[str, Array] = {name: value.copy() for name, value in inputs.items()}
    buffers |= {name: np.zeros(v.shape, v.dtype) for name, v in wanted.items()}
    kept = {name: value.ctypes.data for name, value in buffers.items()}
    bound = engine.bind(buffers)
    bound.enqueue()
    for name, value in wanted.items():
        assert np.array_equal(buffers[name], value)
    buffers["hidden"][...] *= 2
    bound.enqueue()
    again = engine.run(hidden=buffers["hidden"], transcript=buffers["transcript"])
    assert all(np.array_equal(buffers[name], value) for name, value in again.items())
    assert not np.array_equal(again["k_00"], wanted["k_00"])
    assert kept == {name: value.ctypes.data for name, value in buffers.items()}


def test_inputs_may_be_read_only_and_of_any_strides() -> None:
    engine, inputs = torch_engine("context"), inputs_of("context")
    turned = np.asfortranarray(inputs["hidden"])
    turned.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = engine.run(hidden=turned, transcript=inputs["transcript"])
    wanted = engine.run(**inputs)
    assert np.array_equal(made["v_01"], wanted["v_01"])
    assert not turned.flags.writeable


def bad_inputs() -> Mapping[str, dict[str, Array]]:
    whole = inputs_of("context")
    return {
        "missing": {"hidden": whole["hidden"]},
        "unknown": {**whole, "more": whole["hidden"]},
        "rank": {**whole, "hidden": whole["hidden"][0]},
        "width": {**whole, "hidden": whole["hidden"][..., :-1]},
        "type": {**whole, "hidden": whole["hidden"].astype(np.float64)},
    }


@pytest.mark.parametrize("how", bad_inputs())
def test_inputs_that_do_not_fit_are_an_error_that_names_the_stage(how: str) -> None:
    with pytest.raises(EngineError, match="context"):
        torch_engine("context").run(**bad_inputs()[how])


@pytest.mark.parametrize("how", bad_inputs())
def test_buffers_that_do_not_fit_are_an_error_that_names_the_stage(how: str) -> None:
    engine = torch_engine("context")
    outputs = {name: np.zeros_like(v) for name, v in engine.run(**inputs_of("context")).items()}
    with pytest.raises(EngineError, match="context"):
        engine.bind({**bad_inputs()[how], **outputs})


def test_an_output_buffer_is_not_filled_by_repeating() -> None:
    """Of a size that NumPy would broadcast to."""
    engine, inputs = torch_engine("thinker_embed"), inputs_of("thinker_embed")
    out = engine.run(**inputs)["inputs_embeds"]
    wide = np.zeros((3, *out.shape[1:]), np.float32)
    with pytest.raises(EngineError, match="thinker_embed"):
        engine.bind({**inputs, "inputs_embeds": wide}).enqueue()


def test_a_module_that_breaks_down_is_an_error_of_ours() -> None:
    engine, inputs = torch_engine("thinker_embed"), inputs_of("thinker_embed")
    with pytest.raises(EngineError, match="thinker_embed"):
        engine.run(input_ids=inputs["input_ids"] + 10**6)


def with_precision(stage: str) -> Bundle:
    manifest: Manifest = bundle().manifest
    spec = replace(manifest.graphs[stage], precision="int8")
    return Bundle(bundle().directory, replace(manifest, graphs={**manifest.graphs, stage: spec}))


@pytest.mark.parametrize("stage", ["dit_step", "thinker_embed"])
def test_a_rounded_stage_has_no_module(stage: str) -> None:
    """Its integers would be passed over, and the module's weights be zero."""
    with pytest.raises(BundleError, match=f"{stage}.*rounded"):
        load_engine(with_precision(stage), stage, None)


def test_sizes_need_all_of_the_models_stages() -> None:
    graphs = {s: g for s, g in bundle().manifest.graphs.items() if s != "signal"}
    less = Bundle(bundle().directory, replace(bundle().manifest, graphs=graphs))
    with pytest.raises(BundleError, match="lacks signal"):
        sizes_of(less)


def test_it_is_offered_to_the_runtime_by_name() -> None:
    if "torch" not in {entry.name for entry in entry_points(group=GROUP)}:
        pytest.skip("this installation is older than the entry point: install it again")
    assert engine_loader("torch") is load_engine
