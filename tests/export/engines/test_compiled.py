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


def classic(name: str, format: str) -> str:
    """A tensor as TensorRT 10's log has it."""
    return f"{{ Name: {name}, Dimensions: [2,64], Format/Datatype: {format} }}"


CLASSIC = "\n".join(
    [
        f"Name: MatMul_5_myl0_3, LayerType: gemm, Inputs: [ {classic('x', 'Int8')}, "
        f"{classic('w', 'Int8')}], Outputs: [ {classic('y', 'Float')}], "
        "TacticName: sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize32x32x64_stage6, StreamId: 0, "
        "Metadata: [ONNX Layer: QuantizeLinear_1]\x1e[ONNX Layer: MatMul_5]",
        f"Name: MatMul_6, LayerType: CaskConvolution, Inputs: [ "
        f"{classic('a', 'Thirty-two wide channel vectorized row major Int8 format')}], Outputs: [ "
        f"{classic('b', 'Row major linear FP16 format')}], ParameterType: Convolution, "
        'Weights: {"Type": "Int8", "Count": 4096}, Bias: {"Type": "Float", "Count": 64}, '
        "TacticName: a_tactic, StreamId: 0, Metadata: [ONNX Layer: MatMul_6]",
        "Total Activation Memory: 2048 bytes",
    ]
)


def test_a_log_of_tensorrt_names_weights_as_inputs_or_in_a_field_of_their_own() -> None:
    first, second = read_log(CLASSIC).layers
    assert (first.inputs, first.constants) == (("Int8", "Int8"), ())
    assert first.nodes == {"QuantizeLinear_1", "MatMul_5"}
    assert first.multiplies_int8
    assert (second.inputs, second.constants) == (("Int8",), ("Int8",))
    assert not second.multiplies_int8


def test_an_inspector_of_tensorrt_does_so_too() -> None:
    gemm = {
        "Name": "MatMul_5_myl0_3", "LayerType": "gemm",
        "Inputs": [{"Name": "x", "Format/Datatype": "Int8"}],
        "TacticName": "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_by_fusion_tactic",
        "Metadata": "[ONNX Layer: MatMul_5]",
    }  # fmt: skip
    cask = {
        "Name": "MatMul_6", "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "a", "Format/Datatype": "Row major INT8 format"}],
        "Weights": {"Type": "Int8", "Count": 4096}, "Metadata": "[ONNX Layer: MatMul_6]",
    }  # fmt: skip
    first, second = read_inspector(json.dumps({"Layers": [gemm, cask]}))
    assert (first.inputs, first.constants, first.multiplies_int8) == (("Int8",), (), True)
    assert (second.inputs, second.constants) == (("Int8",), ("Int8",))


@pytest.mark.parametrize(
    ("text", "kind"),
    [("Half", "Half"), ("Row major linear FP32", "Float"), ("Row major INT8 format", "Int8"),
     ("BFloat16", "BFloat16"), ("Channel major FP16 format where channel % 8 == 0", "Half")],
)  # fmt: skip
def test_a_type_has_one_name_however_it_is_spelled(text: str, kind: str) -> None:
    entry = {"Name": "n", "Inputs": [{"Format/Datatype": text}]}
    (inspected,) = read_inspector(json.dumps({"Layers": [entry]}))
    line = f"Name: n, LayerType: gemm, Inputs: [ {classic('x', text)}], Outputs: []"
    (logged,) = read_log(f"{line}\nTotal Activation Memory: 8 bytes").layers
    assert inspected.inputs == logged.inputs == (kind,)


@pytest.mark.parametrize(
    ("tactic", "is_int8"),
    [("sm80_xmma_gemm_i8i8_i8i32_f32_tn_n", True), ("sm80_xmma_gemm_i8f16_i8i32_f32_tn_n", True),
     ("sm80_xmma_gemm_f16f16_f16f32_f32_nn_n", False), ("", False),
     ("sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n", False)],
)  # fmt: skip
def test_a_kernels_name_tells_the_types_of_its_operands(tactic: str, is_int8: bool) -> None:
    text = f"Name: n, LayerType: gemm, Inputs: [], Outputs: [], TacticName: {tactic}, StreamId: 0"
    (layer,) = read_log(f"{text}\nTotal Activation Memory: 8 bytes").layers
    assert layer.multiplies_int8 == is_int8


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": []}', '{"Layers": ["MatMul_5"]}'])
def test_an_inspector_that_lists_no_types_proves_nothing(text: str) -> None:
    with pytest.raises(ExportError, match="inspector"):
        read_inspector(text)
