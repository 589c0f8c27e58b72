"""A product that is not computed as the graph rounds it fails the build, by name."""

from __future__ import annotations

import pytest

from omni_rt.errors import ExportError
from omni_rt.export.engines.compiled import CompiledLayer
from omni_rt.export.engines.patterns import Attention, Expected, Product
from omni_rt.export.engines.proof import prove

EIGHT = Product(node="MatMul_5", activations=("FP8",), weight="FP8")
FOUR = Product(node="MatMul_6", activations=(), weight="Int4")
BOTH = Product(node="MatMul_7", activations=("FP8", "FP8"), weight=None)
ATTENTION = Attention(scores="MatMul_7", softmax="Softmax_8", mixing="MatMul_9")


def layer(
    *nodes: str, inputs: tuple[str, ...] = (), constants: tuple[str, ...] = (), tactic: str = ""
) -> CompiledLayer:
    return CompiledLayer(
        name="+".join(nodes),
        kind="gemm",
        inputs=inputs,
        constants=constants,
        nodes=frozenset(nodes),
        tactic=tactic,
    )


def expected(*products: Product, attentions: tuple[Attention, ...] = ()) -> Expected:
    return Expected(products=products, attentions=attentions)


GOOD = {
    EIGHT: layer("MatMul_5", inputs=("FP8",), constants=("FP8", "Float")),
    FOUR: layer("MatMul_6", inputs=("Half",), constants=("Int4", "Half")),
    BOTH: layer("MatMul_7", "Softmax_8", "MatMul_9", inputs=("FP8", "FP8", "Half", "FP8")),
}


def test_products_in_their_own_types_are_proved_and_counted() -> None:
    proof = prove("s", expected(*GOOD, attentions=(ATTENTION,)), list(GOOD.values()), profiles=1)
    assert (proof.rounded_products, proof.attentions, proof.fused_attentions) == (3, 1, 1)


def test_products_of_8_bit_weights_alone_are_proved_and_not_counted() -> None:
    """They are multiplied in 16 bits, but read in 8: one that is not is an error."""
    alone = Product(node="MatMul_9", activations=(), weight="Int8")
    found = layer("MatMul_9", inputs=("Half",), constants=("Half", "Int8"))
    proof = prove("s", expected(EIGHT, FOUR, alone), [*GOOD.values(), found], profiles=1)
    assert proof.rounded_products == 2
    alone = Product(node="MatMul_9", activations=(), weight="Int8", restored_by="Restore_8")
    apart = [
        layer("Restore_8", constants=("Half", "Int8")),
        layer("MatMul_9", inputs=("Half", "Half")),
    ]
    prove("s", expected(alone), apart, profiles=1)
    with pytest.raises(ExportError, match="MatMul_9 became"):
        prove("s", expected(alone), apart, profiles=2)
    wide = layer("Restore_8", "MatMul_9", inputs=("Half",), constants=("Half",))
    with pytest.raises(ExportError, match="MatMul_9 became"):
        prove("s", expected(alone), [wide], profiles=1)


@pytest.mark.parametrize(
    ("product", "made"),
    [
        (EIGHT, layer("MatMul_5", inputs=("Half",), constants=("FP8",))),
        (EIGHT, layer("MatMul_5", inputs=("FP8",), constants=("Half",))),
        (EIGHT, layer("MatMul_5", inputs=("Half", "Half"))),
        (FOUR, layer("MatMul_6", inputs=("Half", "Half"))),
        (BOTH, layer("MatMul_7", inputs=("FP8", "Half"))),
    ],
)
def test_a_silent_fallback_is_named_with_what_it_became(
    product: Product, made: CompiledLayer
) -> None:
    with pytest.raises(ExportError, match=rf"dit_step: 1 of 1 .*{product.node} became .*Half"):
        prove("dit_step", expected(product), [made], profiles=1)


INT8 = Product(node="MatMul_4", activations=("Int8",), weight="Int8")
BY_NAME = "sm80_xmma_gemm_i8f32_i8i32_f32_tn_n"


@pytest.mark.parametrize(
    "made",
    [
        layer("MatMul_4", inputs=("Int8", "Int8", "Float")),
        layer("MatMul_4", inputs=("Int8",), constants=("Int8",)),
        layer("MatMul_4", inputs=("Int8",), tactic=BY_NAME),
    ],
)
def test_a_weight_of_tensorrt_is_found_where_it_says_so(made: CompiledLayer) -> None:
    assert prove("s", expected(INT8), [made], profiles=1).rounded_products == 1


@pytest.mark.parametrize(
    "made",
    [
        layer("MatMul_4", inputs=("Int8",)),
        layer("MatMul_4", inputs=("Int8", "Half")),
        layer("MatMul_4", inputs=("Int8",), tactic="sm80_xmma_gemm_f16f16_f16f32_f32_nn_n"),
        layer("MatMul_4", inputs=("Half", "Float"), tactic=BY_NAME),
        layer("MatMul_4", inputs=("Int8", "Int8"), constants=("Half",)),
        layer("MatMul_4", inputs=("Int8",), constants=("Float",), tactic=BY_NAME),
    ],
)
def test_a_fallback_of_tensorrt_is_named(made: CompiledLayer) -> None:
    with pytest.raises(ExportError, match="MatMul_4 became MatMul_4"):
        prove("s", expected(INT8), [made], profiles=1)


def test_a_product_that_no_layer_names_is_not_proved() -> None:
    with pytest.raises(ExportError, match="MatMul_5 became no layer that the compiler names"):
        prove("s", expected(EIGHT), [layer("MatMul_50", inputs=("FP8",))], profiles=1)


def test_every_profile_has_to_have_the_product() -> None:
    """A plan has kernels of its own for each profile."""
    half = layer("MatMul_5", inputs=("Half",), constants=("Half",))
    with pytest.raises(ExportError, match="MatMul_5"):
        prove("s", expected(EIGHT), [GOOD[EIGHT], half], profiles=2)
    assert prove("s", expected(EIGHT), [GOOD[EIGHT]] * 2, profiles=2).rounded_products == 1


def test_attentions_have_to_be_fused_only_where_that_is_asked_for() -> None:
    apart = [layer("MatMul_7", inputs=("Half",)), layer("Softmax_8"), layer("MatMul_9")]
    wanted = expected(attentions=(ATTENTION,))
    proof = prove("s", wanted, apart, profiles=1)
    assert (proof.attentions, proof.fused_attentions) == (1, 0)
    with pytest.raises(ExportError, match="1 of 1 attentions are not fused: Softmax_8"):
        prove("s", wanted, apart, profiles=1, fused=True)
