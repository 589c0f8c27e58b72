"""Centring: what a graph computes stays the same, and constants go where there is room for them."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from omni_rt.calibration.centring import centre_activation
from omni_rt.calibration.formats import FORMATS
from omni_rt.calibration.qdq import readers, round_each_token, store_rounded
from omni_rt.calibration.rounding import rounded_activation, rounded_matrix
from omni_rt.export.graphs import initialise
from omni_rt.export.weight_file import WeightFile
from tests.calibration.small import MatMulGraph, noise

WIDTH, CENTRE = 32, 5 * noise(32, seed=9)


class NormedGraph:
    """x → LayerNormalization → products with each matrix [N, K] → a bias for the first of them."""

    def __init__(self, folder: Path, *matrices: Tensor, shared: bool = False) -> None:
        self.path, self.file = folder / "n.onnx", WeightFile(folder / "n.data")
        self.vectors = {
            "gamma": 1 + noise(WIDTH, seed=1),
            "beta": noise(WIDTH, seed=2),
            "bias": noise(1, 1, len(matrices[0]), seed=3),
        }
        self.matrices = matrices
        x = ir.Value(
            name="x", shape=ir.Shape(["b", "n", WIDTH]), type=ir.TensorType(ir.DataType.FLOAT)
        )
        self.graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="n")
        gamma, beta, bias = (self._weight(name, value) for name, value in self.vectors.items())
        normed = self._node("LayerNormalization", [x, gamma, beta], "normed", WIDTH)
        if shared:  # something else reads it too
            self.graph.outputs.append(self._node("Abs", [normed], "other", WIDTH))
        for i, matrix in enumerate(matrices):
            weight = self._weight(f"w{i}", matrix.T.contiguous())
            out = self._node("MatMul", [normed, weight], f"p{i}", len(matrix))
            if i == 0:
                out = self._node("Add", [out, bias], "y0", len(matrix))
            self.graph.outputs.append(out)

    def _weight(self, name: str, value: Tensor) -> ir.Value:
        own = ir.Value(name=name, shape=ir.Shape(value.shape))
        initialise(own, value, self.file)
        self.graph.register_initializer(own)
        return own

    def _node(self, op: str, inputs: list[ir.Value], name: str, width: int) -> ir.Value:
        attributes = {"axis": -1} if op == "LayerNormalization" else {}
        node = ir.node(op, inputs, attributes)
        out = node.outputs[0]
        out.name, out.dtype, out.shape = name, ir.DataType.FLOAT, ir.Shape(["b", "n", width])
        self.graph.append(node)
        return out

    def run(self, x: Tensor) -> list[Tensor]:
        self.file._file.flush()
        ir.save(ir.Model(self.graph, ir_version=10), self.path)
        session = ort.InferenceSession(self.path, providers=["CPUExecutionProvider"])
        return [torch.from_numpy(y) for y in session.run(None, {"x": x.numpy()})]

    def centre(self) -> set[str]:
        own = readers(self.graph)
        offsets = {f"w{i}": matrix @ CENTRE for i, matrix in enumerate(self.matrices)}
        activation = own[0].activation
        return centre_activation(
            self.graph, activation, CENTRE, offsets, self.vectors.get, self.file
        )

    def counts(self, *operators: str) -> list[int]:
        return [sum(node.op_type == op for node in self.graph) for op in operators]


@pytest.mark.parametrize("shared", [False, True])
def test_a_centred_graph_computes_the_same(tmp_path: Path, shared: bool) -> None:
    matrices, x = (noise(24, WIDTH, seed=4), noise(16, WIDTH, seed=5)), noise(2, 7, WIDTH)
    plain = NormedGraph(tmp_path, *matrices, shared=shared).run(x)
    (tmp_path / "c").mkdir()
    made = NormedGraph(tmp_path / "c", *matrices, shared=shared)
    made.centre()
    for ours, theirs in zip(made.run(x), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))


def test_what_products_read_is_less_by_the_centre(tmp_path: Path) -> None:
    made, x = NormedGraph(tmp_path, noise(24, WIDTH)), noise(2, 7, WIDTH)
    made.centre()
    read = readers(made.graph)[0].activation
    made.graph.outputs.append(read)
    norm = nn.functional.layer_norm(x, (WIDTH,), made.vectors["gamma"], made.vectors["beta"])
    torch.testing.assert_close(made.run(x)[-1], norm - CENTRE, rtol=0, atol=1e-4)


def test_a_norm_and_a_bias_take_the_constants(tmp_path: Path) -> None:
    made = NormedGraph(tmp_path, noise(24, WIDTH))
    assert made.centre() == {"beta", "bias"}
    assert made.counts("Sub", "Add") == [0, 1]
    assert not {"beta", "bias"} & made.graph.initializers.keys()


def test_a_norm_that_others_read_stays_as_it_is(tmp_path: Path) -> None:
    made = NormedGraph(tmp_path, noise(24, WIDTH), shared=True)
    assert made.centre() == {"bias"}
    assert made.counts("Sub") == [1]
    assert "beta" in made.graph.initializers


def test_a_bias_that_is_not_the_model_s_stays_as_it_is(tmp_path: Path) -> None:
    made = NormedGraph(tmp_path, noise(24, WIDTH))
    made.vectors = {}
    assert made.centre() == set()
    assert made.counts("Sub", "Add") == [1, 2]


@pytest.mark.parametrize("fused", [False, True])
def test_tokens_with_scales_of_their_own_may_be_centred(tmp_path: Path, fused: bool) -> None:
    sizes = 10.0 ** torch.linspace(-2, 2, 33)
    x, matrix, format = noise(33, WIDTH) * sizes[:, None], noise(24, WIDTH), FORMATS["int8"]
    made = MatMulGraph(tmp_path, matrix)
    (reader,) = readers(made.graph)
    offset = {"w0": matrix @ CENTRE}
    centre_activation(made.graph, reader.activation, CENTRE, offset, {}.get, made.file)
    round_each_token(made.graph, reader.activation, format)
    store_rounded(made.graph, reader, rounded_matrix(matrix, format), format, made.file)
    (found,) = made.run(x, precision="int8", fused=fused)
    read = rounded_activation(x - CENTRE, 1.0, format, per_token=True)
    wanted = read @ rounded_matrix(matrix, format).dequantised().T + matrix @ CENTRE
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()
