"""Rounding around a centre: what is read is rounded less a constant, which is added back exactly.

W x = W (x − c) + W c. Of normalised activations most is often a vector that all tokens share: a
product that all but cancels it is then off by what rounding that vector costs. Where a norm with a
bias makes the activation, or a bias follows the product, the constants are merged into these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir
from torch import Tensor

from omni_rt.calibration.qdq import put_after, readers_of, store_new
from omni_rt.export.weight_file import WeightFile

# A vector of the model by its name, folded; None where the graph's initializer is none of these.
Vectors = Callable[[str], Tensor | None]

_BIAS_OF_NORM = 2  # input of LayerNormalization


def centre_activation(
    graph: ir.Graph,
    activation: ir.Value,
    centre: Tensor,
    offsets: Mapping[str, Tensor],
    vectors: Vectors,
    file: WeightFile,
) -> set[str]:
    """Let the MatMuls by weights that read an activation read it less `centre` [K], and add to each
    product what its matrix makes of that: `offsets` [N], by weight name.

    Returns the names of the biases that are merged into new ones, and no longer in the graph.
    """
    own = readers_of(graph, activation)
    alone = len(activation.uses()) == len(own)
    merged = set[str]()
    norm = activation.producer()
    if alone and norm is not None and norm.op_type == "LayerNormalization":
        merged |= _merged(graph, norm, _BIAS_OF_NORM, -centre, vectors, file)
    if not merged:
        less = ir.node("Sub", [activation, _row(graph, activation, centre, "centre", file)])
        out = less.outputs[0]
        out.name, out.shape = f"{activation.name}.centred", activation.shape
        out.dtype = ir.DataType.FLOAT
        graph.insert_before(own[0].node, less)
        for reader in own:
            reader.node.replace_input_with(0, out)
    for reader in own:
        merged |= _add_offset(graph, reader.node.outputs[0], offsets[reader.name], vectors, file)
    return merged


def _add_offset(
    graph: ir.Graph, product: ir.Value, offset: Tensor, vectors: Vectors, file: WeightFile
) -> set[str]:
    uses = list(product.uses())
    if len(uses) == 1 and uses[0][0].op_type == "Add" and not product.is_graph_output():
        add, index = uses[0]
        merged = _merged(graph, add, 1 - index, offset, vectors, file)
        if merged:
            return merged
    matmul = product.producer()
    assert matmul is not None
    put_after(graph, matmul, "Add", _row(graph, product, offset, "offset", file), "moved")
    return set()


def _merged(
    graph: ir.Graph, node: ir.Node, index: int, more: Tensor, vectors: Vectors, file: WeightFile
) -> set[str]:
    """Add to the bias of a node, if it has one to itself: its name then, or nothing."""
    bias = node.inputs[index] if index < len(node.inputs) else None
    if bias is None or bias.name is None or not bias.is_initializer() or len(bias.uses()) > 1:
        return set()
    value = vectors(bias.name)
    if value is None or bias.shape is None:
        return set()
    total = (value.flatten() + more).reshape(tuple(bias.shape.numpy()))
    node.replace_input_with(index, store_new(graph, f"{bias.name}.centred", total, file))
    del graph.initializers[bias.name]
    return {bias.name}


def _row(
    graph: ir.Graph, like: ir.Value, vector: Tensor, suffix: str, file: WeightFile
) -> ir.Value:
    """A vector with as many axes as a value: so ONNX Runtime makes no Gemm in fp32 of a rounded
    product and a bias (spec QUANTISATION §3).
    """
    assert like.shape is not None
    shape = (*(1 for _ in like.shape[1:]), -1)
    return store_new(graph, f"{like.name}.{suffix}", vector.reshape(shape), file)
