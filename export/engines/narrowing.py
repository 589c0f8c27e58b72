"""A graph in fp32 → the same graph with its products in 16 bits, as the original's autocast does.

Compilers of strongly typed graphs compute what the graph says, so it has to say where 16 bits are
enough: products and the softmax between two of them. What follows a product elementwise stays as
narrow as its inputs; norms, sums, sines and all that is made of positions stay in fp32, and so do
the graph's inputs and outputs. Weights are not touched: a Cast follows them, which the compiler
folds, so that the new graph reads the old one's data files.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from omni_rt.export.engines.patterns import is_weight_only
from omni_rt.manifest import BaseType

_TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
_WIDE = ir.DataType.FLOAT
_FLOATS = {_WIDE, *_TYPES.values()}
_PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
# Nothing may widen between the product of queries and keys and its softmax: attention stays fused.
_BETWEEN = {"Add", "Mul", "Div", "Sub", "Where", "Reshape", "Transpose", "Expand"}
_KEPT_WIDE = {
    "LayerNormalization", "ReduceMean", "ReduceSum", "Pow", "Sqrt", "Reciprocal", "Exp", "Log",
    "Sin", "Cos", "Softplus", "QuantizeLinear", "DequantizeLinear",
    "ReduceMax",  # a token's largest value, held above 1e-12, divides it: fp16 has no such number
}  # fmt: skip


def narrow(graph: ir.Graph, base: BaseType, *, ports: Collection[str] = ()) -> int:
    """Compute a graph's products in 16 bits. Returns how many nodes are computed so.

    Inputs and outputs in `ports` are in 16 bits too; the others stay as they are. What weights
    alone decide is computed in fp32 and rounded where it is used. 8-bit products put out fp32:
    their sums are multiplied by each channel's scale only after the product, and may leave fp16's
    range before it.
    """
    return 0 if base == "float32" else _Narrowing(graph, _TYPES[base], frozenset(ports)).run()


class _Narrowing:
    def __init__(self, graph: ir.Graph, narrow_type: ir.DataType, ports: frozenset[str]) -> None:
        self._graph, self._narrow, self._ports = graph, narrow_type, ports
        self._constant: set[int] = set()  # ids of values that depend on no input
        self._casts: dict[tuple[int, ir.DataType], ir.Value] = {}
        self._scores = _score_nodes(graph)

    def run(self) -> int:
        narrowed = 0
        for port in self._graph.inputs:
            if port.name in self._ports:
                port.dtype = self._narrow
        for node in list(self._graph):
            if self._is_decided(node) and not is_weight_only(node):
                self._constant.update(id(value) for value in node.outputs)
            elif any(map(_is_float, (*node.inputs, *node.outputs))):
                narrowed += self._compute(node) == self._narrow
        for i, output in enumerate(self._graph.outputs):
            if _is_float(output):
                self._type_output(i, output)
        return narrowed

    def _is_decided(self, node: ir.Node) -> bool:
        """Whether weights alone decide what a node puts out."""
        return all(value is None or self._is_constant(value) for value in node.inputs)

    def _is_constant(self, value: ir.Value) -> bool:
        return value.is_initializer() or id(value) in self._constant

    def _compute(self, node: ir.Node) -> ir.DataType:
        """Let a node compute in the type that it should. Returns it."""
        wanted = self._wanted(node)
        for i, value in enumerate(node.inputs):
            if value is not None and _is_float(value) and value.dtype != wanted:
                node.replace_input_with(i, self._cast(value, wanted, node))
        for value in node.outputs:
            if _is_float(value):
                value.dtype = wanted
        return wanted

    def _wanted(self, node: ir.Node) -> ir.DataType:
        if node.op_type in _PRODUCTS or node in self._scores or is_weight_only(node):
            return self._narrow
        moving = [
            v for v in node.inputs if v is not None and _is_float(v) and not self._is_constant(v)
        ]
        all_narrow = bool(moving) and all(v.dtype == self._narrow for v in moving)
        return self._narrow if all_narrow and node.op_type not in _KEPT_WIDE else _WIDE

    def _cast(self, value: ir.Value, to: ir.DataType, before: ir.Node) -> ir.Value:
        """The value in another type, made where it is first needed."""
        found = self._casts.get((id(value), to))
        if found is None:
            cast = ir.node("Cast", [value], {"to": to}, name=f"{value.name}.as_{to.name}")
            found = cast.outputs[0]
            found.name, found.dtype, found.shape = cast.name, to, value.shape
            self._graph.insert_before(before, cast)
            self._casts[id(value), to] = found
        return found

    def _type_output(self, index: int, output: ir.Value) -> None:
        """Give an output port the type that it is to have, under its own name."""
        wanted = self._narrow if output.name in self._ports else _WIDE
        if output.dtype == wanted:
            return
        cast = ir.node("Cast", [output], {"to": wanted}, name=f"{output.name}.port")
        port = cast.outputs[0]
        port.dtype, port.shape = wanted, output.shape
        port.name, output.name = output.name, f"{output.name}.computed"
        self._graph.append(cast)
        self._graph.outputs[index] = port


def _score_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Softmaxes, and what lies between the product that each is taken of and it."""
    found: set[ir.Node] = set()
    for node in graph:
        if node.op_type == "Softmax":
            found.update([node, *_path_to_product(node.inputs[0])])
    return found


def _path_to_product(value: ir.Value | None) -> list[ir.Node]:
    """The nodes from a value up to the nearest MatMul that it is elementwise made of."""
    node = None if value is None else value.producer()
    if node is None or node.op_type not in _BETWEEN:
        return []
    for source in node.inputs:
        producer = None if source is None else source.producer()
        if producer is not None and producer.op_type == "MatMul":
            return [node]
        above = _path_to_product(source)
        if above:
            return [node, *above]
    return []


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype in _FLOATS
