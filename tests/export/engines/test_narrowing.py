"""Graphs in 16 bits: the same numbers within 16 bits, in the types that compilers are to see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from omni_rt.calibration.formats import FORMATS
from omni_rt.calibration.qdq import round_each_token
from omni_rt.export.engines.narrowing import narrow

from .graphs import TOKENS, WIDTH, GraphBuilder, attention, model_of, product

# A product of 64 terms, a softmax and another product, each of operands rounded to 11 bits: six
# roundings of at most 2^-11, which add up to 3e-3 at worst.
FP16 = 6 * 2.0**-11


def run(graph: ir.Graph, folder: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    path = folder / "g.onnx"
    ir.save(model_of(graph), path)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def attention_inputs() -> dict[str, np.ndarray]:
    draw = np.random.RandomState(1)
    bias = np.zeros((1, 1, 1, TOKENS), np.float32)
    bias[..., TOKENS // 2 :] = -1e4
    return {"x": draw.standard_normal((1, TOKENS, WIDTH)).astype(np.float32), "bias": bias}


def types(graph: ir.Graph, op: str) -> set[str]:
    return {n.outputs[0].dtype.name for n in graph if n.op_type == op and n.outputs[0].dtype}


def test_a_narrowed_graph_computes_the_same_within_16_bits(tmp_path: Path) -> None:
    graph = attention()
    (wide,) = run(graph, tmp_path, attention_inputs())
    assert narrow(graph, "float16") > 0
    (narrowed,) = run(graph, tmp_path, attention_inputs())
    assert narrowed.dtype == np.float32
    error = np.linalg.norm(narrowed - wide) / np.linalg.norm(wide)
    assert 0 < error < FP16


def test_fp32_leaves_a_graph_as_it_is() -> None:
    graph = attention()
    before = len(graph)
    assert narrow(graph, "float32") == 0
    assert len(graph) == before


def test_products_and_what_lies_between_them_are_narrow_and_norms_are_not() -> None:
    graph = attention()
    narrow(graph, "bfloat16")
    for op in ("MatMul", "Add", "Softmax", "Transpose"):
        assert types(graph, op) == {"BFLOAT16"}
    assert types(graph, "LayerNormalization") == {"FLOAT"}


def test_ports_stay_fp32_unless_they_are_named() -> None:
    for named in ([], ["bias"]):
        graph = attention()
        narrow(graph, "float16", ports=named)
        found = {v.name: v.dtype.name for v in (*graph.inputs, *graph.outputs) if v.dtype}
        assert found == {"x": "FLOAT", "bias": "FLOAT16" if named else "FLOAT", "y": "FLOAT"}


def test_a_weight_is_not_touched_but_cast() -> None:
    graph = attention()
    stored = {name: value.const_value for name, value in graph.initializers.items()}
    narrow(graph, "float16")
    assert {name: value.const_value for name, value in graph.initializers.items()} == stored
    assert {v.dtype.name for n, v in graph.initializers.items() if n in "qkv" and v.dtype} == {
        "FLOAT"
    }


def test_what_positions_make_stays_fp32() -> None:
    """At position 2000, fp16 is 1 apart: a rotation would be lost."""
    build = GraphBuilder()
    x = build.input("x", 4, 8)
    positions = build.input("positions", 4, 1, dtype="INT64")
    wide = build.node("Cast", positions, to=ir.DataType.FLOAT)
    angle = build.node("Mul", wide, build.weight("frequency", 1, 8), shape=[4, 8])
    flat = build.node("MatMul", x, build.weight("w", 8, 8))
    build.output("y", build.node("Mul", flat, build.node("Cos", angle)))
    narrow(build.graph, "float16")
    assert types(build.graph, "Cos") == {"FLOAT"}
    assert [n.inputs[0].dtype for n in build.graph if n.op_type == "Cos"] == [ir.DataType.FLOAT]


def test_8_bit_products_put_out_fp32_and_weights_alone_are_restored_in_16() -> None:
    """A compiler multiplies by a channel's scale after the product, whose sums may leave fp16."""
    for format, alone, restored in (
        *(("fp8", False, {"FLOAT"}), ("int8", False, {"FLOAT"}), ("int4", True, {"FLOAT16"})),
        *(("fp8", True, {"FLOAT16"}), ("int8", True, {"FLOAT16"})),
    ):
        graph = product(format, weights_only=alone)
        narrow(graph, "float16")
        assert types(graph, "DequantizeLinear") == restored


def test_sizes_of_tokens_are_fp32_whatever_made_the_tokens() -> None:
    """A token of zeros is divided by 1e-12, which fp16 rounds to zero."""
    build = GraphBuilder()
    made = build.node("MatMul", build.input("x", 4, 8), build.weight("a", 8, 8))
    build.output("y", build.node("MatMul", made, build.weight("b", 8, 8)))
    round_each_token(build.graph, made, FORMATS["int8"])
    narrow(build.graph, "float16")
    assert types(build.graph, "Abs") == {"FLOAT16"}
    for op in ("ReduceMax", "Max", "Div"):
        assert types(build.graph, op) == {"FLOAT"}
