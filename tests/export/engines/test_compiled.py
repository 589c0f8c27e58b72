"""What compilers say of their plans, in both of their ways to say it."""

from __future__ import annotations

import json

import pytest

from omni_rt.errors import ExportError
from omni_rt.export.engines.compiled import read_inspector, read_log


def tensor(name: str, kind: str) -> str:
    return (
        f"{{ Name: {name}, Dimensions: [-1,64], Strides: [64,1], StrideOrder: [1,0], "
        f"Datatype: {kind}, Format: (Linear) Row major linear format }}"
    )


LAYER = (
    "Name: MatMul_5 [profile 1]+MatMul_4_myl0_9, LayerType: gemm, "
    f"Inputs: [ {tensor('x', 'FP8')}], "
    f"Constants: [ {tensor('w', 'FP8')}, {tensor('alpha', 'Float')}], "
    f"Outputs: [ {tensor('y', 'Half')}], TacticName: , StreamId: 0, "
    "Metadata: [ONNX Layer: MatMul_5][ONNX Layer: MatMul_4][ONNX Layer: DequantizeLinear_3]"
)
LOG = "\n".join(
    [
        "Engine generation completed in 1.2 seconds.",
        "Layers:",
        "Name: __mye_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], Metadata: ",
        LAYER,
        "Total Activation Memory: 2048 bytes",
        "Total Activation Memory: 4096 bytes",
        "Total Weights Memory: 99 bytes",
    ]
)


def test_a_log_is_layers_with_the_types_they_read_and_memory_by_profile() -> None:
    found = read_log(LOG)
    assert found.activation_bytes == (2048, 4096)
    assert found.weight_bytes == 99
    shape, product = found.layers
    assert (shape.inputs, shape.constants, shape.nodes) == ((), (), frozenset())
    assert product.kind == "gemm"
    assert product.inputs == ("FP8",)
    assert product.constants == ("FP8", "Float")  # and not what it puts out
    assert product.nodes == {"MatMul_5", "MatMul_4", "DequantizeLinear_3"}
    assert "FP8+FP8+Float" in product.described


def test_a_log_without_layers_proves_nothing_and_says_so() -> None:
    for text in ("", "Total Activation Memory: 8 bytes", LAYER):
        with pytest.raises(ExportError, match="nothing of this engine is proved"):
            read_log(text)


def test_an_inspector_says_the_same_in_json() -> None:
    text = json.dumps(
        {
            "Layers": [
                {
                    "Name": "MatMul_5_myl0_9",
                    "LayerType": "gemm",
                    "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear Int8 format"}],
                    "Constants": [{"Name": "w", "Datatype": "Int8"}],
                    "Metadata": "[ONNX Layer: MatMul_5]",
                }
            ]
        }
    )
    (layer,) = read_inspector(text)
    assert (layer.inputs, layer.constants, layer.nodes) == (("Int8",), ("Int8",), {"MatMul_5"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": []}', '{"Layers": ["MatMul_5"]}'])
def test_an_inspector_that_lists_no_types_proves_nothing(text: str) -> None:
    with pytest.raises(ExportError, match="inspector"):
        read_inspector(text)
