"""Laws of smoothing: folding is algebra, and the factor that is chosen never hurts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from omni_rt.calibration import graph_writer
from omni_rt.calibration.formats import FORMATS, Format
from omni_rt.calibration.graph_writer import StageGraph
from omni_rt.calibration.groups import Group, groups_of
from omni_rt.calibration.recipes import is_rounded
from omni_rt.calibration.rounding import rounded_activation, rounded_matrix
from omni_rt.calibration.smooth import Folds, Smoothing, by_matrix, smoothed
from omni_rt.metrics import rel_l2
from omni_rt.targets import StageFormat
from tests.calibration.small import (
    engine_of,
    miniature_stage,
    noise,
    parity_inputs,
    quick_miniature,
    random_factor,
    range_of,
    recipe_of,
    shared_heads_thinker,
    smoothing,
    with_outliers,
    write_stage,
)
from tests.calibration.test_groups import family_of, groups, run_thinker

EXACT = 1e-5  # fp32, of factors from 1/4 to 4
FP16 = 2e-3  # four times an element's 2^-11: 20 matrices in a row, and their factors
NAMES: tuple[StageFormat, ...] = ("uint8", "int8", "fp8", "int4")
GROUP = Group(matrices=("a", "b"), divided=("norm",))


def random_folds(stages: tuple[str, ...]) -> list[Smoothing]:
    """A random factor for every group of these stages that has makers."""
    family = family_of(stages[0])
    widths = {name: layer.in_features for name, layer in family.linears()}
    found = [g for stage in stages for g in groups(family, stage) if g.divided]
    return [smoothing(g, random_factor(g, widths[g.name], seed=i)) for i, g in enumerate(found)]


@pytest.mark.parametrize(("name", "wanted"), [("uint8", True), ("int8", True), ("fp8", False)])
def test_tokens_of_very_different_sizes_get_scales_of_their_own(
    name: StageFormat, wanted: bool
) -> None:
    """Where the format has them, and with less error; tokens that are alike share one."""
    rows, matrix = noise(256, 64, seed=1), noise(32, 64, seed=2)
    uneven = rows * 10.0 ** torch.linspace(-2, 1, 256)[:, None]
    alone = Group(matrices=("a",), divided=())
    found = smoothed(alone, range_of(uneven), [matrix], FORMATS[name])
    assert found.per_token is wanted
    assert not smoothed(alone, range_of(rows), [matrix], FORMATS[name]).per_token
    if wanted:
        one = smoothed(alone, range_of(uneven), [matrix], FORMATS[name], per_token=False)
        assert found.error < 0.7 * one.error
    assert not smoothed(alone, range_of(uneven), [matrix], FORMATS[name].weights_alone).per_token


@pytest.mark.parametrize(
    "stages",
    [
        ("context", "dit_step"),
        ("thinker_cond",),
        ("audio_tower",),
        ("vision_tower",),
        ("synchformer",),
    ],
)
def test_folded_modules_compute_the_same(stages: tuple[str, ...]) -> None:
    """Also with shifts of norms and biases, which the miniature has none of in places."""
    exact, folded = family_of(stages[0]), family_of(stages[0])
    own = random_folds(stages)
    assert own
    folds = Folds(own)
    for name, value in folded.tensors().items():
        value.copy_(folds.folded(name, value.clone()))
    for ours, theirs in zip(folded.run(), exact.run(), strict=True):
        assert rel_l2(ours, theirs) < EXACT
    assert len(folds.names) > len(own)


def test_a_folded_thinker_with_shared_heads_says_the_same_and_caches_divided_values() -> None:
    exact, head_width = shared_heads_thinker()
    folded, _ = shared_heads_thinker()
    shapes = {name: tuple(value.shape) for name, value in exact.state_dict().items()}
    block = "model.layers.{}."
    readers = [
        tuple(f"{block.format(i)}{name}.weight" for name in names)
        for i in range(2)
        for names in (
            [f"self_attn.{part}_proj" for part in "qkv"],
            ["self_attn.o_proj"],
            ["mlp.gate_proj", "mlp.up_proj"],
            ["mlp.down_proj"],
        )
    ]
    found = groups_of([*readers, ("lm_head.weight",)], shapes, head_width=head_width)
    factors = [
        smoothing(g, random_factor(g, shapes[g.name][1], seed=i))
        for i, g in enumerate(found)
        if g.divided
    ]
    assert len(factors) >= 8
    assert {s.group.shared_by for s in factors} == {1, 3}
    folds = Folds(factors)
    for name, value in folded.state_dict().items():
        value.copy_(folds.folded(name, value.clone()))
    first, second = run_thinker(exact), run_thinker(folded)
    assert rel_l2(second[0], first[0]) < EXACT
    # words after words: each with its own cache
    third, fourth = run_thinker(exact, past=first[1:]), run_thinker(folded, past=second[1:])
    assert rel_l2(fourth[0], third[0]) < EXACT
    for keys, folded_keys in zip(first[1::2], second[1::2], strict=True):
        assert rel_l2(folded_keys, keys) < EXACT
    values = by_matrix(factors)["model.layers.0.self_attn.o_proj.weight"].factor
    one = values.unflatten(0, (2, 3, head_width))[:, 0][:, None]
    assert rel_l2(second[2] * one, first[2]) < EXACT


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("stages", [("context", "dit_step"), ("thinker_lm",)])
def test_folded_graphs_compute_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: tuple[str, ...], half: bool
) -> None:
    """Written with factors alone; what the miniature has in 16 bits loses as much as fp16 does."""
    if not half:
        monkeypatch.setattr(graph_writer, "narrowed", lambda value, *, may_round: value)
    recipe = recipe_of(None, random_folds(stages))
    inputs = {stage: parity_inputs(stage) for stage in stages}
    made, exact = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for stage in stages:
        spec = quick_miniature().graph(stage)
        own = inputs[stage]
        if stage == "thinker_lm":  # a cache of the folded model's: none
            own = without_cache(own)
        source = engine_of(quick_miniature().path(spec.path), spec)
        exact |= source.run(**with_cache_of(exact, own))
        written = engine_of(write_stage(stage, recipe, tmp_path), spec)
        made |= written.run(**with_cache_of(made, own))
    result = "v" if "dit_step" in stages else "logits"
    assert rel_l2(made[result], exact[result]) < (FP16 if half else EXACT)
    divided = "v_00" if "dit_step" in stages else "present_v_00"
    assert rel_l2(made[divided], exact[divided]) > 0.1  # the factors did something


def with_cache_of(
    context: dict[str, np.ndarray], inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """A step's inputs with the keys and values of its own context."""
    return {**inputs, **{name: part for name, part in context.items() if name in inputs}}


def without_cache(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    tokens = inputs["inputs_embeds"].shape[1]
    own = {n: v[:, :, :0] if n.startswith("past") else v for n, v in inputs.items()}
    return {**own, "attention_mask": inputs["attention_mask"][:, -tokens:]}


def test_dit_step_alone_would_not_be_folded_across_its_context() -> None:
    """Without `context`'s tensors nothing makes the values that cross-attention's output reads."""
    shapes = {n: t.shape for n, t in StageGraph(quick_miniature(), "dit_step").tensors.items()}
    wanted = [n for n in StageGraph(quick_miniature(), "dit_step").groups() if is_rounded(n[0])]
    found = groups_of(wanted, shapes, head_width=None)
    alone = [g for g in found if g.name.endswith("cross_attn.to_out.weight")]
    assert alone
    assert all(not group.divided for group in alone)


def product_error(
    x: Tensor,
    weights: list[Tensor],
    factor: Tensor,
    format: Format,
    largest: float,
    *,
    per_token: bool = False,
) -> float:
    """Of rounded products, written down a second time."""
    importance = (x / factor).square().mean(0)
    read = rounded_activation(x / factor, largest, format, per_token=per_token)
    made = [
        read @ rounded_matrix(w * factor, format, importance=importance).dequantised().T
        for w in weights
    ]
    exact = [x @ w.T for w in weights]
    return rel_l2(torch.cat(made, 1), torch.cat(exact, 1))


def layers() -> list[tuple[Tensor, list[Tensor]]]:
    tame, wild = noise(96, 128, seed=1), with_outliers(noise(96, 128, seed=2), by=60)
    dead = tame.clone()
    dead[:, 5:20] = 0
    weights = [noise(32, 128, seed=3), noise(48, 128, seed=4)]
    steep = [w * torch.logspace(-2, 2, 128) for w in weights]
    return [(tame, weights), (wild, weights), (wild, steep), (dead, weights), (wild, weights[:1])]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", range(len(layers())))
def test_smoothing_is_never_worse_than_none_on_what_was_observed(
    case: int, name: StageFormat
) -> None:
    x, weights = layers()[case]
    format = FORMATS[name]
    chosen = smoothed(GROUP, range_of(x), weights, format)
    none = product_error(x, weights, torch.ones(128), format, float(x.abs().max()))
    own = product_error(
        x, weights, chosen.factor, format, chosen.largest, per_token=chosen.per_token
    )
    assert own == pytest.approx(chosen.error, rel=1e-3)
    assert own <= none * (1 + 1e-4)
    assert torch.isfinite(chosen.factor).all()
    assert (chosen.factor > 0).all()


@pytest.mark.parametrize("name", ["uint8", "int8"])
def test_outliers_are_worth_smoothing(name: StageFormat) -> None:
    x, weights = layers()[1]
    format = FORMATS[name]
    none = product_error(x, weights, torch.ones(128), format, float(x.abs().max()))
    chosen = smoothed(GROUP, range_of(x), weights, format)
    assert chosen.alpha is not None
    assert chosen.error < none / 3


@pytest.mark.parametrize("name", NAMES)
def test_what_nothing_makes_is_not_smoothed(name: StageFormat) -> None:
    x, weights = layers()[1]
    chosen = smoothed(Group(matrices=("a", "b"), divided=()), range_of(x), weights, FORMATS[name])
    assert chosen.alpha is None
    assert torch.equal(chosen.factor, torch.ones(128))
    assert not Folds([chosen]).names


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shared", [0.0, 3.0])
def test_a_choice_says_what_its_activation_is_then(name: StageFormat, shared: float) -> None:
    """Over everything observed, of which the rows are a sample."""
    x, weights = layers()[1]
    x = x + shared * x.abs().amax(0)
    seen = range_of(x)
    for extremes in (seen.channel_max, seen.low, seen.high):
        extremes[:] *= 2
    chosen = smoothed(GROUP, seen, weights, FORMATS[name])
    centre = torch.zeros(128) if chosen.centre is None else chosen.centre * chosen.factor
    ends = [torch.from_numpy(end) - centre for end in (seen.low, seen.high)]
    largest = (torch.stack(ends).abs().amax(0) / chosen.factor).max()
    assert chosen.largest == pytest.approx(float(largest))
    torch.testing.assert_close(chosen.read, (x - centre) / chosen.factor)
    assert float(chosen.factor.log().mean()) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", ["uint8", "int8", "fp8"])
def test_what_all_tokens_share_is_not_rounded(name: StageFormat) -> None:
    """A vector ten times as large as what differs, and nearly cancelled by the matrices."""
    apart, shared = noise(200, 64, seed=1), 10 * noise(1, 64, seed=2)
    matrix = noise(32, 64, seed=3)
    matrix = matrix - (matrix @ shared.T) * shared / shared.square().sum()
    group = Group(matrices=("a",), divided=())
    chosen = smoothed(group, range_of(apart + shared), [matrix], FORMATS[name])
    assert chosen.centre is not None
    alone = smoothed(group, range_of(apart), [matrix], FORMATS[name])
    assert alone.centre is None
    assert chosen.error == pytest.approx(alone.error, rel=0.3)
    weights = smoothed(group, range_of(apart + shared), [matrix], FORMATS[name].weights_alone)
    assert weights.centre is None
    assert chosen.moved == pytest.approx(float((matrix @ chosen.centre).abs().max()), abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_tied_channels_have_one_factor(name: StageFormat) -> None:
    """Four heads of width 16 in two sets of two: channel c of both is made by the same row."""
    group = Group(matrices=("a",), divided=("v", "v_bias"), shared_by=2, head_width=16)
    x = with_outliers(noise(64, 64, seed=5), every=7)
    chosen = smoothed(group, range_of(x), [noise(32, 64)], FORMATS[name])
    assert chosen.alpha is not None
    heads = chosen.factor.unflatten(0, (2, 2, 16))
    assert torch.equal(heads[:, 0], heads[:, 1])
    folds = Folds([chosen])
    value = folds.folded("v", noise(32, 8))
    torch.testing.assert_close(value, noise(32, 8) / heads[:, 0].flatten()[:, None])


def test_folding_takes_vectors_of_either_form_and_leaves_further_rows() -> None:
    factor = torch.tensor([2.0, 4.0, 0.5])
    group = Group(matrices=("w",), divided=("norm", "gated", "gated_bias"))
    folds = Folds([smoothing(group, factor)])
    norm = torch.tensor([2.0, 4.0, 1.0])
    assert folds.folded("norm", norm).tolist() == [1, 1, 2]
    bias = torch.arange(6.0)
    assert folds.folded("gated_bias", bias[None, None]).shape == (1, 1, 6)
    assert folds.folded("gated_bias", bias).tolist() == [0, 0.25, 4, 3, 4, 5]
    matrix = torch.ones(6, 2)
    assert folds.folded("gated", matrix)[:, 0].tolist() == [0.5, 0.25, 2, 1, 1, 1]
    assert folds.folded("w", torch.ones(2, 3)).tolist() == [[2, 4, 0.5]] * 2
    assert torch.equal(matrix, torch.ones(6, 2))  # what was given stays
    assert torch.equal(norm, torch.tensor([2.0, 4.0, 1.0]))
    other = noise(3, 3)
    assert folds.folded("other", other) is other


def test_a_matrix_may_be_multiplied_and_divided_by_different_groups() -> None:
    """`to_v` reads a smoothed norm and makes what `to_out` reads."""
    reads = smoothing(Group(matrices=("v",), divided=("norm",)), torch.tensor([2.0, 4.0]))
    makes = smoothing(Group(matrices=("out",), divided=("v",)), torch.tensor([5.0, 10.0]))
    for order in ([reads, makes], [makes, reads]):
        folded = Folds(order).folded("v", torch.ones(2, 2))
        torch.testing.assert_close(folded, torch.tensor([[0.4, 0.8], [0.2, 0.4]]))


def test_factors_come_in_the_same_order_however_they_were_chosen() -> None:
    one = smoothing(Group(matrices=("b", "a"), divided=("n",)), torch.ones(2))
    two = smoothing(Group(matrices=("c",), divided=("m",)), torch.ones(2))
    orders = [[name for name, _ in Folds(order).factors()] for order in ([one, two], [two, one])]
    assert orders[0] == orders[1]
    assert orders[0] == ["a/columns", "b/columns", "c/columns", "m/rows", "n/rows"]


def test_of_a_stage_the_rebuilt_module_takes_the_folds_too() -> None:
    """The way the certificate's reference is made."""
    folds = Folds(random_folds(("audio_tower",)))
    inputs = [torch.from_numpy(parity_inputs("audio_tower")[n]) for n in ("mel", "lengths")]
    exact = miniature_stage("audio_tower").module(*inputs)
    folded = miniature_stage("audio_tower", changed=folds.folded).module(*inputs)
    assert rel_l2(folded, exact) < EXACT
