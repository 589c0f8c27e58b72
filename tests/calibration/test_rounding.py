"""Laws of rounding: how far off an element may be, what stays exact, what is refused."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor

from omni_rt.calibration.formats import FORMATS, Format
from omni_rt.calibration.rounding import (
    activation_scale,
    compensated_matrix,
    rounded_activation,
    rounded_matrix,
)
from omni_rt.errors import ExportError
from omni_rt.metrics import rel_l2
from omni_rt.targets import StageFormat
from tests.calibration.small import noise, with_outliers

WEIGHTS: tuple[StageFormat, ...] = ("int8", "fp8", "int4")
ACTIVATIONS: tuple[StageFormat, ...] = ("uint8", "int8", "fp8")
SLACK = 1 + 1e-5  # products and quotients in fp32


def matrices() -> list[Tensor]:
    return [
        noise(24, 128, seed=1),
        with_outliers(noise(24, 128, seed=2)),
        noise(24, 128, seed=3) * torch.logspace(-8, 8, 24)[:, None],
        torch.rand(24, 128, generator=torch.Generator().manual_seed(4)),  # all of one sign
        torch.full((3, 64), -0.7),
    ]


def scales(rounded_scale: Tensor, like: Tensor) -> Tensor:
    """A scale for each element."""
    if rounded_scale.ndim == 1:
        return rounded_scale[:, None].expand_as(like)
    return rounded_scale.repeat_interleave(like.shape[1] // rounded_scale.shape[1], dim=1)


@pytest.mark.parametrize("matrix", matrices())
def test_an_element_in_int8_is_off_by_half_a_scale_at_most(matrix: Tensor) -> None:
    made = rounded_matrix(matrix, FORMATS["int8"])
    error = (made.dequantised() - matrix).abs()
    assert (error <= scales(made.scale, matrix) / 2 * SLACK).all()
    assert made.values.dtype == torch.int8
    assert made.values.abs().max() <= 127
    torch.testing.assert_close(made.scale, matrix.abs().amax(1) / 127)


@pytest.mark.parametrize("matrix", matrices())
def test_an_element_in_int4_is_off_by_half_a_scale_unless_it_is_cut(matrix: Tensor) -> None:
    made = rounded_matrix(matrix, FORMATS["int4"])
    unit = scales(made.scale, matrix)
    error, cut = (made.dequantised() - matrix).abs(), matrix / unit
    inside = (cut >= -8.5) & (cut <= 7.5)
    assert (error[inside] <= (unit / 2 * SLACK)[inside]).all()
    assert made.values.min() >= -8
    assert made.values.max() <= 7
    # what is cut is cut to the end of the range, and no block's scale is below 0.7 of its own
    assert (made.values[~inside].abs() >= 7).all()
    largest = matrix.unflatten(1, (-1, 64)).abs().amax(2)
    assert (made.scale >= 0.7 * largest / 7 / SLACK).all()
    assert (made.scale <= largest / 7 * SLACK).all()


@pytest.mark.parametrize("matrix", matrices())
def test_int4_cuts_a_block_only_where_that_lowers_its_weighted_error(matrix: Tensor) -> None:
    importance = torch.rand(matrix.shape[1], generator=torch.Generator().manual_seed(9)) ** 4
    made = rounded_matrix(matrix, FORMATS["int4"], importance=importance)
    blocks = matrix.unflatten(1, (-1, 64))
    unit = blocks.abs().amax(2, keepdim=True) / 7
    plain = ((blocks / unit).round().clamp(-8, 7) * unit).flatten(1)

    def weighted(value: Tensor) -> Tensor:
        return ((value - matrix).square() * importance).unflatten(1, (-1, 64)).sum(2)

    assert (weighted(made.dequantised()) <= weighted(plain) * SLACK).all()


def test_int4_favours_the_columns_that_matter() -> None:
    matrix, importance = noise(64, 64, seed=5), torch.ones(64)
    importance[:8] = 1e4
    plain = rounded_matrix(matrix, FORMATS["int4"]).dequantised() - matrix
    aimed = rounded_matrix(matrix, FORMATS["int4"], importance=importance).dequantised() - matrix
    assert aimed[:, :8].norm() < plain[:, :8].norm()


@pytest.mark.parametrize("matrix", matrices())
def test_an_element_in_e4m3_is_off_by_half_its_relative_step(matrix: Tensor) -> None:
    made = rounded_matrix(matrix, FORMATS["fp8"])
    error = (made.dequantised() - matrix).abs()
    # three bits after the point; below 2^-6 of a scale the steps stop shrinking
    bound = torch.maximum(matrix.abs() * 2.0**-4, scales(made.scale, matrix) * 2.0**-10)
    assert (error <= bound * SLACK).all()
    assert made.values.dtype == torch.float8_e4m3fn
    assert torch.isfinite(made.values.float()).all()


@pytest.mark.parametrize("name", ["int8", "fp8"])
@pytest.mark.parametrize("matrix", matrices())
def test_the_largest_of_a_channel_is_exact(name: StageFormat, matrix: Tensor) -> None:
    made = rounded_matrix(matrix, FORMATS[name]).dequantised()
    torch.testing.assert_close(made.abs().amax(1), matrix.abs().amax(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", WEIGHTS)
def test_channels_are_rounded_independently_of_each_other_and_of_their_size(
    name: StageFormat,
) -> None:
    matrix = noise(6, 128, seed=7)
    powers = 2.0 ** torch.tensor([-20.0, -3.0, 0.0, 1.0, 5.0, 30.0])[:, None]
    plain, scaled = (rounded_matrix(m, FORMATS[name]) for m in (matrix, matrix * powers))
    assert torch.equal(plain.values.float(), scaled.values.float())
    assert torch.equal(plain.dequantised() * powers, scaled.dequantised())
    alone = rounded_matrix(matrix[2:3], FORMATS[name])
    assert torch.equal(alone.dequantised()[0], plain.dequantised()[2])


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_rounding_is_symmetric(name: StageFormat) -> None:
    matrix = noise(8, 64, seed=8)
    plus, minus = (rounded_matrix(m, FORMATS[name]).dequantised() for m in (matrix, -matrix))
    assert torch.equal(plus, -minus)


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_what_is_rounded_already_stays(name: StageFormat) -> None:
    once = rounded_matrix(noise(8, 128, seed=8), FORMATS[name])
    twice = rounded_matrix(once.dequantised(), FORMATS[name])
    assert torch.equal(once.values.float(), twice.values.float())


@pytest.mark.parametrize("name", WEIGHTS)
def test_zeros_stay_zero(name: StageFormat) -> None:
    matrix = noise(5, 128, seed=6)
    matrix[1] = 0
    matrix[:, 3] = 0
    matrix[2, :64] = 0  # a block of zeros
    made = rounded_matrix(matrix, FORMATS[name]).dequantised()
    assert (made[matrix == 0] == 0).all()
    assert torch.isfinite(made).all()
    assert not rounded_matrix(torch.zeros(4, 64), FORMATS[name]).dequantised().any()


@pytest.mark.parametrize("size", [1e-30, 1e-11, 1e30])
@pytest.mark.parametrize("name", WEIGHTS)
def test_extreme_sizes_stay_finite(name: StageFormat, size: float) -> None:
    made = rounded_matrix(size * noise(4, 64), FORMATS[name])
    assert torch.isfinite(made.scale).all()
    assert torch.isfinite(made.dequantised()).all()


@pytest.mark.parametrize("width", [1, 63, 65, 100])
def test_blocks_that_do_not_divide_are_refused(width: int) -> None:
    with pytest.raises(ExportError, match=rf"{width} inputs.*64"):
        rounded_matrix(noise(4, width), FORMATS["int4"])


def quantised_by_onnx(x: np.ndarray, scale: float, name: StageFormat) -> np.ndarray:
    """QuantizeLinear and DequantizeLinear of ONNX Runtime, each by itself."""
    zero = {
        "uint8": ir.tensor(np.uint8(128)),
        "int8": ir.tensor(np.int8(0)),
        "fp8": ir.tensor(np.zeros((), ir.DataType.FLOAT8E4M3FN.numpy())),
    }[name]
    given = ir.Value(name="x", shape=ir.Shape(x.shape), type=ir.TensorType(ir.DataType.FLOAT))
    parts = [
        ir.Value(name=n, shape=ir.Shape(()), type=ir.TensorType(t.dtype), const_value=t)
        for n, t in (("scale", ir.tensor(np.float32(scale))), ("zero", zero))
    ]
    quantise = ir.node("QuantizeLinear", [given, *parts])
    restore = ir.node("DequantizeLinear", [quantise.outputs[0], *parts])
    out = restore.outputs[0]
    out.name, out.dtype, out.shape = "y", ir.DataType.FLOAT, given.shape
    graph = ir.Graph(
        [given], [out], nodes=[quantise, restore], initializers=parts, opset_imports={"": 20},
        name="g",
    )  # fmt: skip
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    made: np.ndarray = session.run(None, {"x": x})[0]
    return made


@pytest.mark.parametrize("largest", [1.0, 3.7, 1e-4])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_worth_what_onnx_makes_of_it_also_beyond_the_range(
    name: StageFormat, largest: float
) -> None:
    """Far beyond, too: what was not observed is cut in both alike."""
    x = torch.cat([largest * noise(4000, seed=2), largest * torch.linspace(-3, 3, 4001)])
    own = rounded_activation(x, largest, FORMATS[name])
    theirs = quantised_by_onnx(x.numpy(), activation_scale(largest, FORMATS[name]), name)
    torch.testing.assert_close(own, torch.from_numpy(theirs), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_within_its_range_is_off_by_half_a_step(name: StageFormat) -> None:
    x, largest = torch.linspace(-2.5, 2.5, 5001), 2.5
    error = (rounded_activation(x, largest, FORMATS[name]) - x).abs()
    scale = activation_scale(largest, FORMATS[name])
    if name == "fp8":
        assert (error <= torch.maximum(x.abs() * 2.0**-4, torch.tensor(scale * 2.0**-10))).all()
    else:
        assert (error <= scale / 2 * SLACK).all()
    assert scale * FORMATS[name].activation_limit == pytest.approx(largest)


@pytest.mark.parametrize("name", ["uint8", "int8"])
def test_each_token_is_off_by_half_a_step_of_its_own(name: StageFormat) -> None:
    """However large others are, and `largest` is no limit; a token of zeros stays zero."""
    sizes = torch.tensor([1e-3, 1.0, 0.0, 5e4])[:, None]
    x = sizes * noise(4, 64, seed=6)
    own = rounded_activation(x, 0.1, FORMATS[name], per_token=True)
    step = x.abs().amax(1, keepdim=True) / 127
    assert ((own - x).abs() <= step / 2 * SLACK).all()
    assert (own != x).any()
    torch.testing.assert_close(
        own[1:2], rounded_activation(x[1:2], float(x[1].abs().max()), FORMATS[name])
    )


def test_a_format_without_activations_leaves_them_alone() -> None:
    x = noise(10)
    assert rounded_activation(x, 1.0, FORMATS["int4"]) is x


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_that_was_always_zero_has_a_scale(name: StageFormat) -> None:
    assert activation_scale(0.0, FORMATS[name]) > 0
    assert not rounded_activation(torch.zeros(3), 0.0, FORMATS[name]).any()


def correlated(rows: int, width: int, *, seed: int = 0) -> Tensor:
    """[rows, width] of a few directions, and a little of all."""
    few = noise(rows, width // 8, seed=seed) @ noise(width // 8, width, seed=99)
    return few + 0.05 * noise(rows, width, seed=seed + 1)


def gptq(weight: Tensor, read: Tensor, format: Format) -> Tensor:
    """As it is published (arXiv:2210.17323, algorithm 1): by the inverse's root, forwards."""
    scale = rounded_matrix(weight, format, importance=read.square().mean(0)).scale
    unit, left = scales(scale, weight).double(), weight.double().clone()
    gram = (read.T @ read).double()
    gram += 0.1 * gram.diagonal().mean() * torch.eye(len(gram))
    order = gram.diagonal().argsort(descending=True, stable=True)
    inverse = torch.linalg.inv(gram[order][:, order])
    root = torch.linalg.cholesky(inverse, upper=True)
    for k, channel in enumerate(order):
        aim = left[:, channel] / unit[:, channel]
        if format.weight == "fp8":
            value = aim.clamp(-448, 448).float().to(torch.float8_e4m3fn).double()
        else:
            low, high = (-8, 7) if format.weight == "int4" else (-127, 127)
            value = aim.round().clamp(low, high)
        lost = (left[:, channel] - value * unit[:, channel]) / root[k, k]
        left[:, channel] = value * unit[:, channel]
        left[:, order[k + 1 :]] -= lost[:, None] * root[k, k + 1 :]
    return left.float()


@pytest.mark.parametrize("width", [64, 192, 320])
@pytest.mark.parametrize("name", WEIGHTS)
def test_compensation_is_gptq(name: StageFormat, width: int) -> None:
    """To the value, but for those that fall to the other side and what follows from them."""
    weight, read, format = noise(48, width, seed=3), correlated(40, width), FORMATS[name]
    made = compensated_matrix(weight, format, read)
    theirs = gptq(weight, read, format)
    assert (made.dequantised() != theirs).float().mean() < 0.05
    assert torch.equal(
        made.scale, rounded_matrix(weight, format, importance=read.square().mean(0)).scale
    )

    def loss(value: Tensor) -> float:
        return float((read @ (value - weight).T).norm())

    assert loss(made.dequantised()) == pytest.approx(loss(theirs), rel=0.05)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", WEIGHTS)
def test_compensation_also_helps_products_that_it_has_not_seen(
    name: StageFormat, seed: int
) -> None:
    weight, read, format = noise(64, 128, seed=seed), correlated(96, 128, seed=5), FORMATS[name]
    held_out = correlated(200, 128, seed=50 + seed)
    exact = held_out @ weight.T
    nearest, made = (
        rel_l2(held_out @ m.dequantised().T, exact)
        for m in (rounded_matrix(weight, format), compensated_matrix(weight, format, read))
    )
    assert made < 0.6 * nearest  # .25 to .5; a few directions are most of what is read


@pytest.mark.parametrize("name", WEIGHTS)
def test_nothing_can_make_up_for_a_channel_that_is_like_no_other(name: StageFormat) -> None:
    weight, format = noise(16, 64, seed=4), FORMATS[name]
    apart = torch.diag(torch.rand(64, generator=torch.Generator().manual_seed(1)) + 0.5)
    nearest = rounded_matrix(weight, format, importance=apart.square().mean(0))
    assert torch.equal(
        compensated_matrix(weight, format, apart).values.float(), nearest.values.float()
    )


@pytest.mark.parametrize("read", [torch.zeros(0, 64), torch.zeros(9, 64)])
@pytest.mark.parametrize("name", WEIGHTS)
def test_what_was_never_read_is_rounded_to_nearest(name: StageFormat, read: Tensor) -> None:
    weight, format = noise(16, 64, seed=4), FORMATS[name]
    made = compensated_matrix(weight, format, read)
    assert torch.equal(made.values.float(), rounded_matrix(weight, format).values.float())


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_how_many_channels_go_at_once_changes_nothing(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, read = noise(16, 192, seed=4), correlated(64, 192)
    made = compensated_matrix(weight, FORMATS["int8"], read).dequantised()
    monkeypatch.setattr("omni_rt.calibration.rounding._CHANNELS_AT_ONCE", at_once)
    other = compensated_matrix(weight, FORMATS["int8"], read).dequantised()
    assert (made != other).float().mean() < 0.01  # sums in another order


def test_a_channel_that_dwarfs_all_others_does_not_stop_it() -> None:
    read = correlated(64, 128)
    read[:, 3] *= 1e4
    read[:, 7] = 0
    made = compensated_matrix(noise(16, 128), FORMATS["int4"], read).dequantised()
    assert torch.isfinite(made).all()


def test_compensated_blocks_are_whole() -> None:
    with pytest.raises(ExportError, match="blocks of 64"):
        compensated_matrix(noise(4, 60), FORMATS["int4"], noise(5, 60))
