"""What a graph asks of a compiler, product by product."""

from __future__ import annotations

import pytest

from omni_rt.export.engines.narrowing import narrow
from omni_rt.export.engines.patterns import expected_of

from .graphs import attention, product


@pytest.mark.parametrize(
    ("format", "activations", "weight"),
    [
        ("fp8", ("FP8",), "FP8"),
        ("int8", ("Int8",), "Int8"),
        ("uint8", ("UInt8",), "Int8"),
        ("int4", (), "Int4"),
    ],
)
def test_a_product_is_expected_in_the_types_that_it_is_written_in(
    format: str, activations: tuple[str, ...], weight: str
) -> None:
    graph = product(format)
    before = expected_of(graph)
    (found,) = before.products
    assert (found.activations, found.weight) == (activations, weight)
    assert found.node == next(n.name for n in graph if n.op_type == "MatMul")
    narrow(graph, "float16")
    assert expected_of(graph) == before  # names and types survive


@pytest.mark.parametrize("format", [None, "fp8"])
def test_an_attention_is_its_scores_softmax_and_mixing(format: str | None) -> None:
    graph = attention(format)
    expected = expected_of(graph)
    (found,) = expected.attentions
    by_name = {node.name: node for node in graph}
    assert by_name[found.softmax].op_type == "Softmax"
    names = [n.name for n in graph if n.op_type == "MatMul"]
    assert [found.scores, found.mixing] == names[-2:]
    assert [p.activations for p in expected.products] == ([("FP8", "FP8")] * 2 if format else [])
