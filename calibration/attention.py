"""FP8 attention: both products of every attention of a step, q·kᵀ and softmax·v, in E4M3.

An E4M3 number keeps its three bits over a range of 2^15, so a scale that is an upper bound serves
as well as the exact one: sizes of queries and keys are those of their projections, times √2 for the
rotation, and a softmax is at most 1 (spec QUANTISATION §1, table, "+ FP8 attention").
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping

import onnx_ir as ir

from omni_rt.calibration.formats import Format
from omni_rt.calibration.qdq import readers, round_input
from omni_rt.calibration.ranges import LayerRange
from omni_rt.calibration.smooth import Smoothing
from omni_rt.errors import ExportError

# Of both products of an attention, q·kᵀ and softmax·v: the largest value of either side.
ProductSizes = tuple[tuple[float, float], tuple[float, float]]

_ROTATED = math.sqrt(2)  # how much larger a rotation can make a value of a pair
_SOFTMAX = 1.0
_QUERY = ".to_q.weight"
CROSS = ".cross_attn"  # how names of attentions to the context end
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


def products_of(sizes: Mapping[str, float]) -> dict[str, ProductSizes]:
    """The sizes that both products of every attention are rounded with, by attention.

    Raises ExportError if nothing is known of keys or values.
    """
    found: dict[str, ProductSizes] = {}
    for query in sizes:
        name = query.removesuffix(_QUERY)
        if name != query:
            key, value = f"{name}.to_k.weight", f"{name}.to_v.weight"
            if name.endswith(CROSS):
                layer = int(name.split(".")[-2])
                key, value = f"k_{layer:02d}", f"v_{layer:02d}"
            unknown = {query, key, value} - sizes.keys()
            if unknown:
                raise ExportError(f"attention: {', '.join(sorted(unknown))}: not observed")
            q, k, v = (_ROTATED * sizes[part] for part in (query, key, value))
            found[name] = ((q, k), (_SOFTMAX, v))
    return found


def round_attention(
    graph: ir.Graph,
    sizes: Mapping[str, float],
    format: Format,
    *,
    spared: Collection[str] = (),
) -> int:
    """Quantise both inputs of every product of two activations. Returns how many products.

    spared: attentions that stay as they are, by name. Raises ExportError for a product whose inputs
    nothing is known of.
    """
    every = _products(graph)
    products = [node for node in every if not spared or _attention_of(graph, node) not in spared]
    if len(every) - len(products) != 2 * len(spared):
        raise ExportError(f"attention: {graph.name} lacks some of {', '.join(sorted(spared))}")
    for node in products:
        for i, value in enumerate(node.inputs):
            assert value is not None
            round_input(graph, node, i, _largest(graph, value, sizes), format)
    return len(products)


def _products(graph: ir.Graph) -> list[ir.Node]:
    by_weight = {id(reader.node) for reader in readers(graph)}
    return [n for n in graph if n.op_type == "MatMul" and id(n) not in by_weight]


def _attention_of(graph: ir.Graph, product: ir.Node) -> str:
    """The attention that a product is part of: of queries and keys, or of their softmax."""
    value = product.inputs[0]
    while True:
        assert value is not None
        source = _origin(graph, value)
        if isinstance(source, ir.Node) and source.op_type in ("Softmax", "MatMul"):
            value = source.inputs[0]
            continue
        return str(source).removesuffix(_QUERY)


def _largest(graph: ir.Graph, value: ir.Value, sizes: Mapping[str, float]) -> float:
    source = _origin(graph, value)
    if isinstance(source, ir.Node) and source.op_type == "Softmax":
        return _SOFTMAX
    name = source.op_type if isinstance(source, ir.Node) else source
    if name not in sizes:
        raise ExportError(f"attention: {value.name} comes from {name}, which was not observed")
    return _ROTATED * sizes[name]


def _origin(graph: ir.Graph, value: ir.Value) -> str | ir.Node:
    """The projection's weight, the graph's input, or else the node that a value comes from."""
    weights = {id(reader.node): reader.name for reader in readers(graph)}
    while True:
        node = value.producer()
        if node is None:
            assert value.name is not None
            return value.name
        if id(node) in weights:
            return weights[id(node)]
        if node.op_type not in _THROUGH or node.inputs[0] is None:
            return node
        value = node.inputs[0]
