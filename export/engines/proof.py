"""Whether a compiler kept what a graph rounds: every product found, in its types, or no engine.

TensorRT takes any product that it has no kernel for back to 16 or 32 bits without a word, and an
engine's size does not show it (spec QUANTISATION §1, step 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omni_rt.errors import ExportError
from omni_rt.export.engines.compiled import CompiledLayer
from omni_rt.export.engines.patterns import Attention, Expected, Product

_NAMED = 3  # products that an error names


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was found in every profile of a plan."""

    rounded_products: int  # but those of 8-bit weights alone, which are found too
    attentions: int
    fused_attentions: int


def prove(
    stage: str,
    expected: Expected,
    layers: Sequence[CompiledLayer],
    *,
    profiles: int,
    fused: bool = False,
) -> Proof:
    """Find every rounded product of a graph among a plan's layers, once for each profile.

    With `fused`, every attention has to be one kernel too. Raises ExportError naming the product
    and the layers it became.
    """
    fallen = [
        product
        for product in expected.products
        if sum(_is_rounded(layer, product) for layer in layers) < profiles
    ]
    if fallen:
        raise ExportError(_not_rounded(stage, fallen, expected, layers))
    together = [a for a in expected.attentions if _count_fused(a, layers) >= profiles]
    apart = [a for a in expected.attentions if a not in together]
    if fused and apart:
        names = ", ".join(a.softmax for a in apart[:_NAMED])
        raise ExportError(
            f"{stage}: {len(apart)} of {len(expected.attentions)} attentions are not fused: {names}"
        )
    return Proof(
        rounded_products=sum(not p.reads_8_bit_weights_alone for p in expected.products),
        attentions=len(expected.attentions),
        fused_attentions=len(together),
    )


def _is_rounded(layer: CompiledLayer, product: Product) -> bool:
    """Whether a layer computes a product from operands in the types that the graph gives them.

    8-bit weights alone are multiplied in 16 bits. Whether that layer restores them, or one before
    it, costs a kernel, not precision: what reads them where they are stored is looked for.
    """
    nodes = {product.node}
    if product.reads_8_bit_weights_alone and product.restored_by is not None:
        nodes.add(product.restored_by)
    if layer.nodes.isdisjoint(nodes):
        return False
    read = list(layer.inputs)
    for kind in product.activations:
        if kind not in read:
            return False
        read.remove(kind)
    return product.weight is None or _reads_weight(layer, product.weight, read)


def _reads_weight(layer: CompiledLayer, kind: str, inputs: Sequence[str]) -> bool:
    """Whether a layer reads a weight of a type. `inputs` are those beside its activations.

    What a layer says of its constants holds. TensorRT says of most layers nothing: the weight is an
    input, or only the kernel's name tells its type.
    """
    if layer.constants:
        return kind in layer.constants
    return kind in inputs or (kind == "Int8" and layer.multiplies_int8)


def _count_fused(attention: Attention, layers: Sequence[CompiledLayer]) -> int:
    names = {attention.scores, attention.softmax, attention.mixing}
    return sum(names <= layer.nodes for layer in layers)


def _not_rounded(
    stage: str, fallen: Sequence[Product], expected: Expected, layers: Sequence[CompiledLayer]
) -> str:
    found = "; ".join(
        f"{product.node} became {_fate(product, layers)}" for product in fallen[:_NAMED]
    )
    more = " …" if len(fallen) > _NAMED else ""
    return (
        f"{stage}: {len(fallen)} of {len(expected.products)} rounded products are not computed as "
        f"the graph rounds them: {found}{more}"
    )


def _fate(product: Product, layers: Sequence[CompiledLayer]) -> str:
    found = [layer.described for layer in layers if product.node in layer.nodes]
    return " and ".join(found[:2]) or "no layer that the compiler names"
