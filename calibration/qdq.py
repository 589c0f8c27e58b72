"""Rounded graphs: standard QuantizeLinear and DequantizeLinear around the matrices of a stage.

Every engine reads the same few operators: an activation is quantised once for all the matrices that
read it, a matrix is stored quantised, and what multiplies them is fused by the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from omni_rt.calibration.formats import Format
from omni_rt.calibration.rounding import TINY, RoundedMatrix, activation_scale
from omni_rt.errors import ExportError
from omni_rt.export.graphs import initialise
from omni_rt.export.surgery import cast_to_float
from omni_rt.export.weight_file import WeightFile

_ZERO_POINTS: Mapping[str, ir.TensorProtocol] = {
    "uint8": ir.tensor(np.uint8(128)),
    "int8": ir.tensor(np.int8(0)),
    "fp8": ir.tensor(np.zeros((), ir.DataType.FLOAT8E4M3FN.numpy())),
}
_ROUNDED_TYPES: Mapping[str, ir.DataType] = {
    "int8": ir.DataType.INT8,
    "fp8": ir.DataType.FLOAT8E4M3FN,
    "int4": ir.DataType.INT4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A MatMul by a weight."""

    node: ir.Node
    weight: ir.Value

    @property
    def name(self) -> str:
        """The weight's."""
        assert self.weight.name is not None
        return self.weight.name

    @property
    def activation(self) -> ir.Value:
        found = self.node.inputs[0]
        assert found is not None
        return found


def check_unrounded(graph: ir.Graph) -> None:
    """Raise ExportError if a graph has been rounded already."""
    if any(map(_is_rounded, graph.initializers.values())) or any(
        node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph
    ):
        raise ExportError(f"graph {graph.name} is quantised already: start from the fp32 bundle")


def without_weight_casts(graph: ir.Graph) -> None:
    """Let every user of a weight stored in 16 bits read it directly; it is stored anew."""
    for value in filter(_is_narrow, list(graph.initializers.values())):
        value.dtype = ir.DataType.FLOAT
        for node, _ in list(value.uses()):
            if node.op_type == "Cast":
                ir.convenience.replace_all_uses_with(node.outputs[0], value)
                graph.remove(node, safe=True)
    for node in list(graph):  # of a table that was widened after the lookup
        rows = node.inputs[0] if node.op_type == "Cast" else None
        lookup = None if rows is None else rows.producer()
        if rows is not None and lookup is not None and lookup.op_type == "Gather":
            wide, rows.dtype = node.outputs[0], ir.DataType.FLOAT
            rows.shape, name = wide.shape, wide.name
            ir.convenience.replace_all_uses_with(wide, rows, replace_graph_outputs=True)
            graph.remove(node, safe=True)
            wide.name, rows.name = None, name


def _is_narrow(value: ir.Value) -> bool:
    stored = None if value.const_value is None else value.const_value.dtype
    return stored in (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)


def _is_rounded(weight: ir.Value) -> bool:
    return weight.const_value is not None and weight.const_value.dtype in _ROUNDED_TYPES.values()


def readers(graph: ir.Graph) -> list[Reader]:
    """Every MatMul whose second operand is a weight, in order."""
    return [
        Reader(node=node, weight=weight)
        for node in graph
        if node.op_type == "MatMul"
        and (weight := node.inputs[1]) is not None
        and weight.is_initializer()
    ]


def read_together(graph: ir.Graph) -> tuple[tuple[str, ...], ...]:
    """Names of the matrices that read one activation, for each such activation."""
    groups: dict[int, list[str]] = {}
    for reader in readers(graph):
        groups.setdefault(id(reader.activation), []).append(reader.name)
    return tuple(map(tuple, groups.values()))


def round_activation(graph: ir.Graph, activation: ir.Value, largest: float, format: Format) -> None:
    """Quantise and dequantise an activation before all the MatMuls by weights that read it."""
    own = [reader.node for reader in readers_of(graph, activation)]
    restored = _rounded_value(graph, own[0], activation, largest, format)
    for node in own:
        node.replace_input_with(0, restored)


def put_after(graph: ir.Graph, node: ir.Node, operator: str, by: ir.Value, suffix: str) -> None:
    """Put an operator with a second operand behind a node, for all that use its output."""
    value = node.outputs[0]
    added = ir.node(operator, [value, by])
    out = added.outputs[0]
    out.shape, out.dtype, out.name = value.shape, ir.DataType.FLOAT, f"{value.name}.{suffix}"
    ir.convenience.replace_all_uses_with(value, out, replace_graph_outputs=True)
    added.replace_input_with(0, value)
    graph.insert_after(node, added)


def round_each_token(graph: ir.Graph, activation: ir.Value, format: Format) -> None:
    """The same with a scale for each token, which the products are multiplied by in the end.

    A token [..., K] is divided by its largest absolute value, so what is quantised lies between −1
    and 1 and has a constant scale: any engine multiplies it as it does other integers.
    """
    own = [reader.node for reader in readers_of(graph, activation)]
    name = activation.name
    assert name is not None
    assert activation.shape is not None
    last = _constant(graph, f"{name}.last", ir.tensor(np.array([-1], np.int64)))
    least = _constant(graph, f"{name}.least", ir.tensor(np.float32(TINY)))
    absolute = ir.node("Abs", [activation])
    largest = ir.node("ReduceMax", [absolute.outputs[0], last], {"keepdims": 1})
    sizes = ir.node("Max", [largest.outputs[0], least])
    divided = ir.node("Div", [activation, sizes.outputs[0]])
    one_each = ir.Shape([*activation.shape[:-1], 1])
    for node, suffix, shape in (
        (absolute, "absolute", activation.shape),
        (largest, "largest", one_each),
        (sizes, "sizes", one_each),
        (divided, "divided", activation.shape),
    ):
        out = node.outputs[0]
        out.name, out.shape, out.dtype = f"{name}.{suffix}", shape, ir.DataType.FLOAT
    graph.insert_before(own[0], [absolute, largest, sizes, divided])
    restored = _rounded_value(graph, own[0], divided.outputs[0], 1.0, format)
    for node in own:
        node.replace_input_with(0, restored)
        put_after(graph, node, "Mul", sizes.outputs[0], "scaled")


def round_input(graph: ir.Graph, node: ir.Node, index: int, largest: float, format: Format) -> None:
    """Quantise and dequantise one input of one node."""
    value = node.inputs[index]
    assert value is not None
    node.replace_input_with(index, _rounded_value(graph, node, value, largest, format))


def _rounded_value(
    graph: ir.Graph, before: ir.Node, value: ir.Value, largest: float, format: Format
) -> ir.Value:
    """A value through QuantizeLinear and DequantizeLinear, which are put in before a node."""
    assert format.activation is not None
    assert value.name is not None
    scale = np.float32(activation_scale(largest, format))
    parts = [
        _constant(graph, f"{value.name}.scale", ir.tensor(scale)),
        _constant(graph, f"{value.name}.zero", _ZERO_POINTS[format.activation]),
    ]
    quantise = ir.node("QuantizeLinear", [value, *parts])
    restore = ir.node("DequantizeLinear", [quantise.outputs[0], *parts])
    quantise.outputs[0].dtype = _ZERO_POINTS[format.activation].dtype
    restore.outputs[0].dtype = ir.DataType.FLOAT
    for node, suffix in ((quantise, "quantised"), (restore, "restored")):
        node.outputs[0].shape = value.shape
        node.outputs[0].name = f"{value.name}.{suffix}"
    graph.insert_before(before, [quantise, restore])
    return restore.outputs[0]


def readers_of(graph: ir.Graph, activation: ir.Value) -> list[Reader]:
    """The MatMuls by weights that read an activation, in order."""
    return [reader for reader in readers(graph) if reader.activation is activation]


def store_rounded(
    graph: ir.Graph,
    reader: Reader,
    rounded: RoundedMatrix,
    format: Format,
    file: WeightFile,
    *,
    at_load: bool = False,
) -> None:
    """Store a matrix [N, K] as integers [K, N] with scales, restored before its MatMul.

    at_load: a matrix with a scale for each channel is widened by a Cast and a Mul, which ONNX
    Runtime does once, as it loads the graph, where it would do DequantizeLinear in every run; in
    memory the matrix takes what fp32 does.
    """
    weight, name = reader.weight, reader.name
    k, n = rounded.values.shape[1], rounded.values.shape[0]
    weight.shape = ir.Shape([k, n])
    initialise(weight, rounded.values.T.contiguous(), file, stored=_ROUNDED_TYPES[format.weight])
    unit = rounded.scale if rounded.scale.ndim == 1 else rounded.scale.T.contiguous()
    parts = [store_new(graph, f"{name}.scale", unit, file)]
    if at_load:
        wide = ir.node("Cast", [weight], {"to": ir.DataType.FLOAT})
        restore = ir.node("Mul", [wide.outputs[0], *parts])
        nodes = [(wide, "wide"), (restore, "restored")]
    else:
        if format.weight == "int8" and format.activation != "uint8":
            # ONNX Runtime (1.31) makes S8 weights U8 where no product with unsigned activations is
            # to be fused, and then lacks a zero point for each channel
            parts.append(store_new(graph, f"{name}.zero", torch.zeros(n, dtype=torch.int8), file))
        own = {"axis": 1} if format.block is None else {"axis": 0, "block_size": format.block}
        restore = ir.node("DequantizeLinear", [weight, *parts], own)
        nodes = [(restore, "restored")]
    for node, suffix in nodes:
        out = node.outputs[0]
        out.name, out.dtype, out.shape = f"{name}.{suffix}", ir.DataType.FLOAT, weight.shape
        graph.insert_before(reader.node, node)
    reader.node.replace_input_with(1, restore.outputs[0])


def store_rounded_table(graph: ir.Graph, node: ir.Node, table: Tensor, file: WeightFile) -> None:
    """Store a table [V, H] that is looked up as 8-bit integers with a scale for each row."""
    weight, ids = node.inputs[0], node.inputs[1]
    assert weight is not None
    assert weight.name is not None
    scale = table.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    values = (table / scale).round().to(torch.int8)
    initialise(weight, values, file, stored=ir.DataType.INT8)
    scales = store_new(graph, f"{weight.name}.scale", scale, file)
    rows = node.outputs[0]
    lookup = ir.node("Gather", [weight, ids], {"axis": 0})
    wide = ir.node("Cast", [lookup.outputs[0]], {"to": ir.DataType.FLOAT})
    unit = ir.node("Gather", [scales, ids], {"axis": 0})
    product = ir.node("Mul", [wide.outputs[0], unit.outputs[0]])
    for own, suffix in ((lookup, "rows"), (wide, "wide"), (unit, "unit")):
        own.outputs[0].name = f"{weight.name}.{suffix}"
    out = product.outputs[0]
    out.dtype, out.shape = ir.DataType.FLOAT, rows.shape
    graph.insert_before(node, [lookup, wide, unit, product])
    ir.convenience.replace_all_uses_with(rows, out, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    out.name, rows.name = rows.name, None


def store_as_it_is(graph: ir.Graph, weight: ir.Value, value: Tensor, file: WeightFile) -> None:
    """Store a weight that is not rounded, in the type and layout that `value` has."""
    initialise(weight, value.contiguous(), file)
    if value.dtype in (torch.bfloat16, torch.float16):
        cast_to_float(graph, weight)


def store_new(graph: ir.Graph, name: str, value: Tensor, file: WeightFile) -> ir.Value:
    """A new weight."""
    own = ir.Value(name=name, shape=ir.Shape(value.shape))
    kind = ir.DataType.INT8 if value.dtype == torch.int8 else None
    initialise(own, value, file, stored=kind)
    graph.register_initializer(own)
    return own


def _constant(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value
