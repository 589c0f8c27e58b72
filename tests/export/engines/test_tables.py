"""Rounded tables: the same rows to the bit, in the form that TensorRT takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from omni_rt.errors import ExportError
from omni_rt.export.engines.tables import restore_before_lookup

from .graphs import GraphBuilder, model_of

ROWS, WIDTH = 50, 16


def table_graph(*, scaled: bool = True) -> ir.Graph:
    """Ids [n] → rows of a table in 8 bits, times their scales, as a quantised bundle has it."""
    build = GraphBuilder()
    ids = build.input("ids", "n", dtype="INT64")
    values = build.draw.randint(-127, 128, (ROWS, WIDTH)).astype(np.int8)
    table = build.constant("embed_tokens.weight", values)
    scale = build.constant("embed_tokens.weight.scale", build.draw.rand(ROWS, 1).astype(np.float32))
    rows = build.node("Gather", table, ids, dtype="INT8", shape=["n", WIDTH], axis=0)
    wide = build.node("Cast", rows, to=ir.DataType.FLOAT)
    if scaled:
        unit = build.node("Gather", scale, ids, shape=["n", 1], axis=0)
        wide = build.node("Mul", wide, unit)
    build.output("y", wide)
    return build.graph


def run(graph: ir.Graph, path: Path) -> np.ndarray:
    ir.save(model_of(graph), path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"ids": np.array([3, 0, ROWS - 1, 3])})
    return found


def test_rows_are_the_same_to_the_bit(tmp_path: Path) -> None:
    graph = table_graph()
    before = run(graph, tmp_path / "before.onnx")
    assert restore_before_lookup(graph) == 1
    assert [node.op_type for node in graph] == ["DequantizeLinear", "Gather"]
    assert np.array_equal(run(graph, tmp_path / "after.onnx"), before)
    assert restore_before_lookup(graph) == 0


def test_a_table_that_is_used_otherwise_is_refused_by_name() -> None:
    with pytest.raises(ExportError, match=r"table embed_tokens\.weight: its rows"):
        restore_before_lookup(table_graph(scaled=False))
