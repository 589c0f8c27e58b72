"""What a graph's QuantizeLinear and DequantizeLinear ask of a compiler, product by product."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

# Types as compilers name them.
_NAMES = {
    ir.DataType.FLOAT8E4M3FN: "FP8",
    ir.DataType.INT8: "Int8",
    ir.DataType.UINT8: "UInt8",
    ir.DataType.INT4: "Int4",
}
_THROUGH = {"Cast", "QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Unsqueeze"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A MatMul of rounded numbers."""

    node: str
    activations: tuple[str, ...]  # types of its rounded activations; none: weights alone
    weight: str | None  # type of its weight; None: both operands are activations
    restored_by: str | None = None  # the node that makes its weight 16 or 32 bits again

    @property
    def reads_8_bit_weights_alone(self) -> bool:
        """Whether it is computed in high precision, where its stage's format would round it."""
        return not self.activations and self.weight != "Int4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """softmax(q·kᵀ)·v: three nodes that a compiler makes one kernel of."""

    scores: str
    softmax: str
    mixing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What has to be found among the layers that a compiler made of a graph."""

    products: tuple[Product, ...]
    attentions: tuple[Attention, ...]


def expected_of(graph: ir.Graph) -> Expected:
    """Every rounded product and every attention of a graph, by the names of its nodes."""
    return Expected(
        products=tuple(p for node in graph if (p := _product(node)) is not None),
        attentions=tuple(a for node in graph if (a := _attention(node)) is not None),
    )


def is_weight_only(node: ir.Node) -> bool:
    """Whether a node restores a weight for products whose activations are not rounded."""
    if node.op_type != "DequantizeLinear" or not _is_weight(node):
        return False
    readers = [n for n in node.outputs[0].consumers() if n.op_type == "MatMul"]
    return bool(readers) and all(_restoring(reader.inputs[0]) is None for reader in readers)


def _product(node: ir.Node) -> Product | None:
    if node.op_type != "MatMul":
        return None
    sources = [restoring for value in node.inputs if (restoring := _restoring(value))]
    if not sources:
        return None
    assert node.name is not None
    weight = next((source for source in sources if _is_weight(source)), None)
    return Product(
        node=node.name,
        activations=tuple(_type(source) for source in sources if not _is_weight(source)),
        weight=None if weight is None else _type(weight),
        restored_by=None if weight is None else weight.name,
    )


def _attention(softmax: ir.Node) -> Attention | None:
    if softmax.op_type != "Softmax":
        return None
    scores = _scores(softmax.inputs[0])
    mixing = _reader(softmax.outputs[0])
    if scores is None or mixing is None:
        return None
    assert scores.name is not None
    assert softmax.name is not None
    assert mixing.name is not None
    return Attention(scores=scores.name, softmax=softmax.name, mixing=mixing.name)


def _scores(value: ir.Value | None) -> ir.Node | None:
    """The product that a softmax is taken of, through what is added or multiplied."""
    node = None if value is None else value.producer()
    if node is None or node.op_type == "MatMul":
        return node
    if node.op_type in {"Add", "Mul", "Div", "Cast", "Reshape"}:
        return next((found for v in node.inputs if (found := _scores(v))), None)
    return None


def _reader(value: ir.Value) -> ir.Node | None:
    """The product that reads a value, at once or rounded."""
    for node in value.consumers():
        if node.op_type == "MatMul":
            return node
        if node.op_type in _THROUGH and (found := _reader(node.outputs[0])):
            return found
    return None


def _restoring(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that a product's operand comes from, if any."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _is_weight(restoring: ir.Node) -> bool:
    stored = restoring.inputs[0]
    return stored is not None and stored.is_initializer()


def _type(restoring: ir.Node) -> str:
    stored = restoring.inputs[0]
    assert stored is not None
    assert stored.dtype is not None
    return _NAMES.get(stored.dtype, stored.dtype.name)
