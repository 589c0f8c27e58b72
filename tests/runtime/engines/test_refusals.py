"""What engines refuse, by name and on one line, and what works after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omni_rt.bundle import Bundle
from omni_rt.engines import Engine
from omni_rt.errors import EngineError
from omni_rt.manifest import GraphSpec, TensorSpec

from .graphs import SIZES, assert_computed, inputs_of, write_runnable_bundle


def _locked(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("x", lambda x: x.astype(np.float64)),
        ("x", lambda x: x.astype(np.float16)),
        ("x", lambda x: x[:, :, ::2].repeat(2, axis=2)[..., :5]),
        ("x", lambda x: np.asfortranarray(x)),
        ("x", lambda x: x[0]),
        ("x", lambda x: x.tolist()),
        ("v", _locked),
        ("v", lambda v: v.astype(np.int64)),
        ("v", lambda v: v[:, :3]),
        ("k_00", lambda k: None),
    ],
)
def test_a_buffer_of_the_wrong_kind_is_refused_by_name(
    name: str, wrong: Callable[[np.ndarray], object], step: Engine
) -> None:
    buffers = inputs_of("dit_step", **SIZES["dit_step"])
    buffers["v"] = np.zeros_like(buffers["x"])
    with pytest.raises(EngineError, match=rf"dit_step.*{name}") as caught:
        step.bind({**buffers, name: wrong(buffers[name])})
    assert "\n" not in str(caught.value)


def test_buffers_are_all_there_and_no_others(step: Engine) -> None:
    buffers = inputs_of("dit_step", **SIZES["dit_step"])
    with pytest.raises(EngineError, match="dit_step: v: missing"):
        step.bind(buffers)
    with pytest.raises(EngineError, match="dit_step: w: "):
        step.bind({**buffers, "v": np.zeros_like(buffers["x"]), "w": buffers["x"]})


@pytest.mark.parametrize("rows", [3, 5])
def test_an_output_buffer_of_the_wrong_size_is_an_error(rows: int, step: Engine) -> None:
    inputs = inputs_of("dit_step", **SIZES["dit_step"])
    bound = step.bind({**inputs, "v": np.zeros((rows, 4, 6), np.float32)})
    with pytest.raises(EngineError, match="dit_step") as caught:
        bound.enqueue()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"x": None},
        {"y": np.zeros(3, np.float32)},
        {"x": np.zeros((4, 4, 6))},
        {"x": np.zeros((4, 4, 6), np.int64)},
        {"x": np.zeros((4, 4, 7), np.float32)},
        {"x": np.zeros((4, 4), np.float32)},
        {"k_00": np.zeros((2, 2, 9, 32), np.float32)},
    ],
)
def test_a_wrong_input_is_one_line_and_the_engine_goes_on(change: dict, step: Engine) -> None:
    inputs = inputs_of("dit_step", **SIZES["dit_step"])
    given_ = {name: array for name, array in {**inputs, **change}.items() if array is not None}
    with pytest.raises(EngineError, match="dit_step") as caught:
        step.run(**given_)
    assert "\n" not in str(caught.value)
    assert_computed("dit_step", inputs, step.run(**inputs))


def _with_port(spec: GraphSpec, index: int, **changes: object) -> GraphSpec:
    ports = list(spec.inputs)
    ports[index] = replace(ports[index], **changes)
    return replace(spec, inputs=tuple(ports))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: _with_port(s, 0, name="y"),
        lambda s: _with_port(s, 0, dtype="int64"),
        lambda s: _with_port(s, 0, dtype="float16"),
        lambda s: _with_port(s, 0, shape=("R", 4, 7)),
        lambda s: _with_port(s, 0, shape=(1, 4, 6)),
        lambda s: _with_port(s, 0, shape=("R", 4, "L")),
        lambda s: _with_port(s, 0, shape=("R", 4)),
        lambda s: replace(s, inputs=s.inputs[::-1]),
        lambda s: replace(s, inputs=s.inputs[:-1]),
        lambda s: replace(s, outputs=(replace(s.outputs[0], shape=("R", 5, 6)),)),
        lambda s: replace(
            s, outputs=(*s.outputs, TensorSpec(name="w", dtype="float32", shape=("R",)))
        ),
    ],
)
def test_a_graph_of_other_ports_than_the_manifest_says_is_refused(
    change: Callable[[GraphSpec], GraphSpec], load: Callable[..., Engine], bundle: Bundle
) -> None:
    graphs = {**bundle.manifest.graphs, "dit_step": change(bundle.graph("dit_step"))}
    other = Bundle(bundle.directory, replace(bundle.manifest, graphs=graphs))
    with pytest.raises(EngineError, match=r"dit_step\.onnx: its ports are not the manifest's"):
        load("dit_step", other)


@pytest.mark.parametrize("damage", ["no graph", "garbage", "no weights", "short weights"])
def test_a_file_that_is_no_graph_is_one_line(
    damage: str, load: Callable[..., Engine], tmp_path: Path
) -> None:
    bundle = write_runnable_bundle(tmp_path / "bundle")
    graph = bundle.path("graphs/vae_decoder.onnx")
    weights = bundle.path("graphs/vae_decoder.data")
    if damage == "no graph":
        graph.unlink()
    elif damage == "garbage":
        graph.write_bytes(b"\0 no graph \xff" * 9)
    elif damage == "no weights":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(EngineError, match=r"vae_decoder\.onnx: cannot be loaded: \S") as caught:
        load("vae_decoder", bundle)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
