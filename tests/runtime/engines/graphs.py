"""Small graphs that engines can load: the tiny bundle's stages, and what they compute in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from omni_rt.bundle import Bundle
from omni_rt.manifest import GraphSpec, Precision, TensorSpec
from tests.runtime.tiny_bundle import DIMS, graph_of, rewrite, write_tiny_bundle

Arrays = dict[str, np.ndarray]

_TYPES = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}
_DRAW = np.random.RandomState(5)
KEYS = _DRAW.standard_normal((8, 64)).astype(np.float32)
VALUES = _DRAW.standard_normal((8, 64)).astype(np.float32)
DECODER = _DRAW.standard_normal((4, 2, 100)).astype(np.float32)  # channels, sides, samples

# Dynamic sizes of a usual call.
SIZES = {
    "context": {"n": 6},
    "dit_step": {"R": 4, "Q": 2, "P": 7},
    "vae_decoder": {"B": 1, "frames": 6},
}

STEP = np.float32(0.02)  # of quantised inputs: they reach 2.5
WEIGHT_STEP = np.float32(0.01)
FAN_IN, FAN_OUT = 64, 32


def write_graph(
    path: Path,
    spec: GraphSpec,
    nodes: Sequence[NodeProto],
    weights: Mapping[str, np.ndarray | TensorProto],
) -> None:
    """An ONNX file of a stage, its larger weights beside it if the spec lists a data file."""
    graph = helper.make_graph(
        list(nodes),
        path.stem,
        [helper.make_tensor_value_info(p.name, _TYPES[p.dtype], p.shape) for p in spec.inputs],
        [helper.make_tensor_value_info(p.name, _TYPES[p.dtype], p.shape) for p in spec.outputs],
        [
            value if isinstance(value, TensorProto) else numpy_helper.from_array(value, name)
            for name, value in weights.items()
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", spec.opset)], ir_version=10
    )
    onnx.save(
        model,
        path,
        save_as_external_data=bool(spec.data),
        location=Path(spec.data[0]).name if spec.data else None,
        size_threshold=256,
    )


def _context() -> tuple[list[NodeProto], Mapping[str, np.ndarray]]:
    nodes = [helper.make_node("Concat", ["hidden", "transcript"], ["tokens"], axis=1)]
    for name, weight in (("k_00", "wk"), ("v_00", "wv")):
        nodes += [
            helper.make_node("MatMul", ["tokens", weight], [f"{name}_flat"]),
            helper.make_node("Reshape", [f"{name}_flat", "split"], [f"{name}_split"]),
            helper.make_node("Transpose", [f"{name}_split"], [name], perm=[0, 2, 1, 3]),
        ]
    return nodes, {"wk": KEYS, "wv": VALUES, "split": np.array([1, -1, 2, 32])}


def _dit_step() -> tuple[list[NodeProto], Mapping[str, np.ndarray]]:
    """V = x·t + mean(prepend) + mean(k·v + bias): every input counts, rows R and Q differ."""
    nodes = [
        helper.make_node("Unsqueeze", ["t", "last"], ["times"]),
        helper.make_node("Mul", ["x", "times"], ["moved"]),
        helper.make_node("ReduceMean", ["prepend", "last"], ["signal"], keepdims=1),
        helper.make_node("Mul", ["k_00", "v_00"], ["attended"]),
        helper.make_node("Add", ["attended", "bias"], ["biased"]),
        helper.make_node("ReduceMean", ["biased"], ["context"], keepdims=0),
        helper.make_node("Transpose", ["context_bias"], ["bias"], perm=[0, 1, 3, 2]),
        helper.make_node("Add", ["moved", "signal"], ["both"]),
        helper.make_node("Add", ["both", "context"], ["v"]),
    ]
    order = [0, 1, 2, 3, 6, 4, 5, 7, 8]  # the bias is turned before it is added
    return [nodes[i] for i in order], {"last": np.array([1, 2])}


def _vae_decoder() -> tuple[list[NodeProto], Mapping[str, np.ndarray]]:
    node = helper.make_node("ConvTranspose", ["latents", "w"], ["waveform"], strides=[100])
    return [node], {"w": DECODER}


def write_runnable_bundle(directory: Path) -> Bundle:
    """The tiny bundle with graphs that run."""
    manifest = write_tiny_bundle(directory)
    for stage, (nodes, weights) in {
        "context": _context(),
        "dit_step": _dit_step(),
        "vae_decoder": _vae_decoder(),
    }.items():
        spec = graph_of(stage)
        (directory / spec.data[0]).unlink()
        write_graph(directory / spec.path, spec, nodes, weights)
        (directory / spec.data[0]).touch()  # listed, also where no weight is large
    rewrite(directory, manifest)
    return Bundle.open(directory)


def inputs_of(stage: str, *, seed: int = 0, **sizes: int) -> Arrays:
    """Random inputs of a stage with these dynamic sizes."""
    draw = np.random.RandomState(seed)
    return {
        port.name: draw.standard_normal(
            [sizes[n] if isinstance(n, str) else n for n in port.shape]
        ).astype(np.float32)
        for port in graph_of(stage).inputs
    }


def computed(stage: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """What a stage is to give, in fp64."""
    given = {name: np.asarray(array, np.float64) for name, array in inputs.items()}
    if stage == "context":
        tokens = np.concatenate([given["hidden"], given["transcript"]], axis=1)
        return {
            name: (tokens @ weight).reshape(1, -1, 2, 32).transpose(0, 2, 1, 3)
            for name, weight in (("k_00", KEYS), ("v_00", VALUES))
        }
    if stage == "dit_step":
        biased = given["k_00"] * given["v_00"] + given["context_bias"].transpose(0, 1, 3, 2)
        signal = given["prepend"].mean((1, 2), keepdims=True)
        return {"v": given["x"] * given["t"][:, None, None] + signal + biased.mean()}
    assert stage == "vae_decoder"
    pieces = np.einsum("bcf,cok->bofk", given["latents"], DECODER)
    return {"waveform": pieces.reshape(len(pieces), DIMS.audio_channels, -1)}


def assert_computed(stage: str, inputs: dict[str, np.ndarray], found: dict) -> None:
    wanted = computed(stage, inputs)
    assert list(found) == list(wanted)
    for name, value in found.items():
        assert value.dtype == np.float32
        assert value.shape == wanted[name].shape
        assert np.allclose(value, wanted[name], rtol=1e-5, atol=1e-5)  # fp32, sums of at most 700


def product_spec(precision: Precision, opset: int) -> GraphSpec:
    """One rounded product, x [B, S, 64] → y [B, S, 32]."""

    def port(name: str, width: int) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", shape=("B", "S", width))

    return GraphSpec(
        path=f"{precision}.onnx",
        data=(),
        precision=precision,
        opset=opset,
        fold_id="none",
        inputs=(port("x", FAN_IN),),
        outputs=(port("y", FAN_OUT),),
    )


def write_8_bit_product(path: Path, spec: GraphSpec, weight: np.ndarray) -> None:
    """Q/DQ of inputs per tensor and of weights [64, 32] per column, for int8 and fp8."""
    if spec.precision == "int8":
        zeros = {"xz": np.uint8(128), "wz": np.zeros(FAN_OUT, np.int8)}
        stored: np.ndarray | TensorProto = weight.astype(np.int8)
    else:
        fp8 = TensorProto.FLOAT8E4M3FN
        raw = weight.astype(ml_dtypes.float8_e4m3fn).tobytes()
        stored = helper.make_tensor("w", fp8, weight.shape, raw, raw=True)
        zeros = {
            "xz": helper.make_tensor("xz", fp8, [], b"\0", raw=True),
            "wz": helper.make_tensor("wz", fp8, [FAN_OUT], bytes(FAN_OUT), raw=True),
        }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
        helper.make_node("MatMul", ["xd", "wd"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["y"]),
    ]
    scales = {"xs": STEP, "ws": np.full(FAN_OUT, WEIGHT_STEP)}
    bias = np.zeros((1, 1, FAN_OUT), np.float32)
    write_graph(
        path,
        spec,
        nodes,
        {"w": stored, "b": bias}
        | {name: np.asarray(v) for name, v in scales.items()}
        | {n: z if isinstance(z, TensorProto) else np.asarray(z) for n, z in zeros.items()},
    )


def write_4_bit_product(path: Path, spec: GraphSpec, weight: np.ndarray) -> None:
    """Weights alone in 4 bits, -8 to 7, one scale for a block of 32 rows of a column."""
    flat = weight.astype(np.int8).reshape(-1)
    packed = ((flat[0::2] & 0xF) | ((flat[1::2] & 0xF) << 4)).astype(np.uint8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "wd"], ["y"]),
    ]
    stored = helper.make_tensor("w", TensorProto.INT4, weight.shape, packed.tobytes(), raw=True)
    scales = np.full((FAN_IN // 32, FAN_OUT), WEIGHT_STEP)
    write_graph(path, spec, nodes, {"w": stored, "ws": scales})
