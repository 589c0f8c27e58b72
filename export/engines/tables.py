"""Rounded tables as TensorRT takes them: restored, then looked up.

It takes 8-bit constants before a DequantizeLinear alone, and fuses that into the look-up: one
kernel reads the rows that are asked for, and the table stays in 8 bits (TensorRT-RTX 1.7.1).
"""

from __future__ import annotations

import onnx_ir as ir

from omni_rt.errors import ExportError


def restore_before_lookup(graph: ir.Graph) -> int:
    """Turn look-ups of 8-bit tables that are widened row by row into look-ups of restored tables.

    Exact: the same integers times the same scales. Returns how many. Raises ExportError for a table
    that is used in any other way.
    """
    lookups = [node for node in graph if node.op_type == "Gather" and _is_rounded(node.inputs[0])]
    for lookup in lookups:
        _restore(graph, lookup)
    return len(lookups)


def _is_rounded(table: ir.Value | None) -> bool:
    return table is not None and table.is_initializer() and table.dtype == ir.DataType.INT8


def _restore(graph: ir.Graph, lookup: ir.Node) -> None:
    table, rows = lookup.inputs[0], lookup.outputs[0]
    widened = _only_user(rows, "Cast")
    product = None if widened is None else _only_user(widened.outputs[0], "Mul")
    units = None if product is None else _scale_lookup(product)
    if table is None or widened is None or product is None or units is None:
        raise ExportError(f"table {table and table.name}: its rows are not multiplied by scales")
    scale = units.inputs[0]
    assert scale is not None
    restore = ir.node("DequantizeLinear", [table, _vector(graph, scale)], {"axis": 0})
    whole, out = restore.outputs[0], product.outputs[0]
    restore.name, whole.name = f"{table.name}.restore", f"{table.name}.restored"
    whole.dtype, whole.shape = ir.DataType.FLOAT, table.shape
    rows.dtype, rows.shape = ir.DataType.FLOAT, out.shape
    graph.insert_before(lookup, restore)
    lookup.replace_input_with(0, whole)
    name = out.name
    ir.convenience.replace_all_uses_with(out, rows, replace_graph_outputs=True)
    graph.remove([product, units, widened], safe=True)
    out.name, rows.name = None, name


def _only_user(value: ir.Value, op: str) -> ir.Node | None:
    users = list(value.consumers())
    return users[0] if len(users) == 1 and users[0].op_type == op else None


def _scale_lookup(product: ir.Node) -> ir.Node | None:
    """The look-up of the scales that rows are multiplied by."""
    sources = [None if value is None else value.producer() for value in product.inputs]
    return next((node for node in sources if node and node.op_type == "Gather"), None)


def _vector(graph: ir.Graph, scale: ir.Value) -> ir.Value:
    """Scales [V, 1] as [V]."""
    assert scale.const_value is not None
    values = ir.tensor(scale.const_value.numpy().reshape(-1).copy())
    made = ir.Value(
        name=f"{scale.name}.vector",
        shape=ir.Shape(values.shape.numpy()),
        type=ir.TensorType(values.dtype),
        const_value=values,
    )
    graph.register_initializer(made)
    return made
