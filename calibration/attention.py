"""FP8 attention: both products of every attention of a step, q·kᵀ and softmax·v, in E4M3.

An E4M3 number keeps its three bits over a range of 2^15, so a scale that is an upper bound serves
as well as the exact one: sizes of queries and keys are those of their projections, times √2 for the
rotation, and a softmax is at most 1 (spec QUANTISATION §1, table, "+ FP8 attention").
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from omni_rt.calibration.formats import Format
from omni_rt.calibration.qdq import readers, round_input
from omni_rt.calibration.ranges import LayerRange
from omni_rt.calibration.smooth import Smoothing
from omni_rt.errors import ExportError

_THROUGH = ("Mul", "Add", "Sub", "Concat", "Split", "Transpose", "Reshape", "Slice")


def attention_sizes(
    step: Mapping[str, LayerRange],
    context: Mapping[str, LayerRange],
    smoothings: Iterable[Smoothing],
) -> dict[str, float]:
    """Upper bounds of what projections and cached keys and values put out, after folding.

    By the name of the projection's weight, or of the step's input.
    """
    sizes = {name: layer.output_max for name, layer in step.items()}
    for name, layer in context.items():
        found = re.search(r"layers\.(\d+)\.cross_attn\.to_([kv])\.weight", name)
        if found is not None:
            sizes[f"{found[2]}_{int(found[1]):02d}"] = layer.output_max
    for smoothing in smoothings:
        for maker in smoothing.group.divided:
            found = re.search(r"layers\.(\d+)\.cross_attn\.to_v\.weight", maker)
            made = maker if found is None else f"v_{int(found[1]):02d}"
            if made in sizes:
                sizes[made] /= float(smoothing.factor.min())
    return sizes


def round_attention(graph: ir.Graph, sizes: Mapping[str, float], format: Format) -> int:
    """Quantise both inputs of every product of two activations. Returns how many products.

    Raises ExportError for a product whose inputs nothing is known of.
    """
    by_weight = {id(reader.node) for reader in readers(graph)}
    products = [n for n in graph if n.op_type == "MatMul" and id(n) not in by_weight]
    for node in products:
        for i, value in enumerate(node.inputs):
            assert value is not None
            round_input(graph, node, i, _largest(graph, value, sizes), format)
    return len(products)


def _largest(graph: ir.Graph, value: ir.Value, sizes: Mapping[str, float]) -> float:
    source = _source(graph, value)
    if source == "Softmax":
        return 1.0
    if source not in sizes:
        raise ExportError(f"attention: {value.name} comes from {source}, which was not observed")
    return math.sqrt(2) * sizes[source]


def _source(graph: ir.Graph, value: ir.Value) -> str:
    """The projection's weight, the graph's input, or the operator that a value comes from."""
    weights = {id(reader.node): reader.name for reader in readers(graph)}
    while True:
        node = value.producer()
        if node is None:
            assert value.name is not None
            return value.name
        if id(node) in weights:
            return weights[id(node)]
        if node.op_type not in _THROUGH or node.inputs[0] is None:
            return node.op_type
        value = node.inputs[0]
