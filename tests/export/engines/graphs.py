"""Graphs of one attention and of single products, rounded or not, as the exporter writes them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

WIDTH, HEADS, TOKENS = 64, 2, 32
_FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
_KINDS = {
    "fp8": (_FP8, ir.DataType.FLOAT8E4M3FN),
    "int8": (np.dtype(np.int8), ir.DataType.INT8),
    "uint8": (np.dtype(np.uint8), ir.DataType.UINT8),
}


class GraphBuilder:
    """Nodes in order, every value with its type and shape."""

    def __init__(self, *, opset: int = 20) -> None:
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": opset}, name="g")
        self.draw = np.random.RandomState(3)

    def input(self, name: str, *shape: int | str, dtype: str = "FLOAT") -> ir.Value:
        kind = ir.TensorType(ir.DataType[dtype])
        value = ir.Value(name=name, shape=ir.Shape(shape), type=kind)
        self.graph.inputs.append(value)
        return value

    def constant(self, name: str, array: np.ndarray, kind: ir.DataType | None = None) -> ir.Value:
        tensor = ir.Tensor(array, dtype=kind or ir.DataType.from_numpy(array.dtype), name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value

    def weight(self, name: str, rows: int, columns: int) -> ir.Value:
        values = self.draw.standard_normal((rows, columns)) / np.sqrt(rows)
        return self.constant(name, values.astype(np.float32))

    def node(
        self, op: str, *inputs: ir.Value, dtype: str = "FLOAT", shape: object = None, **attributes
    ) -> ir.Value:
        made = ir.node(op, list(inputs), attributes)
        made.name = f"{op}_{len(self.graph)}"
        out = made.outputs[0]
        out.name, out.dtype = f"{made.name}.out", ir.DataType[dtype]
        out.shape = inputs[0].shape if shape is None else ir.Shape(shape)  # type: ignore[arg-type]
        self.graph.append(made)
        return out

    def output(self, name: str, value: ir.Value) -> None:
        value.name = name
        self.graph.outputs.append(value)

    def rounded(self, value: ir.Value, format: str, *, scale: float = 0.05) -> ir.Value:
        """An activation through QuantizeLinear and DequantizeLinear."""
        dtype, kind = _KINDS[format]
        unit = self.constant(f"{value.name}.scale", np.array(scale, np.float32))
        zero = self.constant(
            f"{value.name}.zero", np.array(128 if format == "uint8" else 0, dtype), kind
        )
        small = self.node("QuantizeLinear", value, unit, zero, dtype=kind.name)
        return self.node("DequantizeLinear", small, unit, zero)

    def rounded_weight(
        self, name: str, rows: int, columns: int, format: str, *, block: int = 32
    ) -> ir.Value:
        """A matrix in 8 bits with a scale for each column, or in 4 with blocks of rows."""
        if format == "int4":
            values = self.draw.randint(-7, 8, (rows, columns)).astype(ml_dtypes.int4)
            stored = self.constant(name, values, ir.DataType.INT4)
            unit = self.constant(
                f"{name}.scale", np.full((rows // block, columns), 0.02, np.float32)
            )
            return self.node("DequantizeLinear", stored, unit, axis=0, block_size=block)
        dtype, kind = _KINDS["int8" if format == "uint8" else format]
        values = self.draw.randint(-9, 10, (rows, columns)).astype(dtype)
        stored = self.constant(name, values, kind)
        unit = self.constant(f"{name}.scale", np.full(columns, 0.01, np.float32))
        return self.node("DequantizeLinear", stored, unit, axis=1)


def product(
    format: str, *, weights_only: bool = False, width: int = WIDTH, block: int = 32
) -> ir.Graph:
    """x [n, width] → y [n, 32], in "fp8", "int8", "uint8" or "int4" (weights alone)."""
    build = GraphBuilder(opset=21 if format == "int4" else 20)
    x = build.input("x", "n", width)
    left = x if format == "int4" or weights_only else build.rounded(x, format)
    right = build.rounded_weight("w", width, 32, format, block=block)
    build.output("y", build.node("MatMul", left, right, shape=["n", 32]))
    return build.graph


def attention(format: str | None = None) -> ir.Graph:
    """x [1, 32, 64], bias [1, 1, 1, 32] → softmax(q·kᵀ + bias)·v, two heads, x normalised."""
    build = GraphBuilder()
    x = build.input("x", 1, TOKENS, WIDTH)
    bias = build.input("bias", 1, 1, 1, TOKENS)
    gamma = build.constant("gamma", np.ones(WIDTH, np.float32))
    normal = build.node("LayerNormalization", x, gamma, axis=-1)
    split = build.constant("split", np.array([1, TOKENS, HEADS, WIDTH // HEADS]))
    heads = [1, HEADS, TOKENS, WIDTH // HEADS]
    parts = []
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        flat = build.node("MatMul", normal, build.weight(name, WIDTH, WIDTH))
        apart = build.node("Reshape", flat, split, shape=[1, TOKENS, HEADS, WIDTH // HEADS])
        parts.append(build.node("Transpose", apart, perm=order, shape=[heads[0], heads[1]] + (
            [heads[3], heads[2]] if name == "k" else heads[2:]
        )))  # fmt: skip
    q, k, v = (build.rounded(p, format) if format else p for p in parts)
    scores = build.node("MatMul", q, k, shape=[1, HEADS, TOKENS, TOKENS])
    weights = build.node("Softmax", build.node("Add", scores, bias), axis=-1)
    mixed = build.node(
        "MatMul", build.rounded(weights, format) if format else weights, v, shape=heads
    )
    build.output("y", mixed)
    return build.graph


def model_of(graph: ir.Graph) -> ir.Model:
    return ir.Model(graph, ir_version=10)
