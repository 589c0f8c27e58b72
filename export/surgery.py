"""Exact changes to a traced graph: pure in what they compute, counted in what they touch."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass

from omni_rt.errors import ExportError


def fold_weight_transposes(graph: ir.Graph, weights: set[str]) -> set[str]:
    """Read each transposed weight directly; returns the names to be stored transposed.

    Exact: a MatMul gets the same matrix. A weight is either always or never transposed.
    """
    transposed: set[str] = set()
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or source.name not in weights:
            continue
        if any(user is not node for user, _ in source.uses()):
            raise ExportError(f"{source.name} is used both as stored and transposed")
        ir.convenience.replace_all_uses_with(node.outputs[0], source)
        assert source.shape is not None
        assert source.name is not None
        source.shape = ir.Shape(reversed(source.shape))
        transposed.add(source.name)
        graph.remove(node, safe=True)
    return transposed


def matmul_biases(graph: ir.Graph, weights: set[str]) -> set[str]:
    """Names of the vectors added to a MatMul's output, to be stored [1,1,N].

    So stored, ONNX Runtime cannot merge a quantised MatMul and its bias into a Gemm that runs in
    fp32 (spec QUANTISATION §3). Broadcasting makes it exact.
    """
    found: set[str] = set()
    for node in graph:
        if node.op_type != "Add":
            continue
        for bias, other in (node.inputs, node.inputs[::-1]):
            producer = other.producer() if other is not None else None
            if bias is None or bias.name not in weights or producer is None:
                continue
            if producer.op_type == "MatMul" and bias.shape is not None and len(bias.shape) == 1:
                bias.shape = ir.Shape([1, 1, bias.shape[0]])
                found.add(bias.name)
    return found


def cast_to_float(graph: ir.Graph, weight: ir.Value) -> None:
    """Let a weight stored in 16 bits be read as fp32. Exact: fp32 has all their values.

    A table that is only looked up is converted row by row, after the lookup, and can stay mapped;
    any other weight at once, by a Cast that ONNX Runtime folds when it loads the graph.
    """
    uses = list(weight.uses())
    if all(node.op_type == "Gather" and i == 0 for node, i in uses):
        for node, _ in uses:
            rows = node.outputs[0]
            assert weight.dtype is not None
            rows.dtype = weight.dtype
            graph.insert_after(node, _cast(graph, rows))
    else:
        graph.insert_before(graph[0], _cast(graph, weight))


def _cast(graph: ir.Graph, narrow: ir.Value) -> ir.Node:
    """A Cast to FLOAT whose output every user of `narrow` takes instead."""
    cast = ir.node("Cast", [narrow], {"to": ir.DataType.FLOAT})
    wide = cast.outputs[0]
    wide.shape, wide.dtype, wide.name = narrow.shape, ir.DataType.FLOAT, f"{narrow.name}.fp32"
    for node, i in list(narrow.uses()):
        if node is not cast:
            node.replace_input_with(i, wide)
    for i, output in enumerate(graph.outputs):
        if output is narrow:
            wide.name, narrow.name = narrow.name, f"{narrow.name}.stored"
            graph.outputs[i] = wide
    return cast


def simplify(model: ir.Model) -> None:
    """Drop what export leaves behind: identities, unused nodes, traces of this machine's paths."""
    IdentityEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs]:
        value.metadata_props.clear()
    for i, node in enumerate(model.graph):
        node.metadata_props.clear()
        node.name = f"{node.op_type}_{i}"
        for output in node.outputs:
            output.metadata_props.clear()
