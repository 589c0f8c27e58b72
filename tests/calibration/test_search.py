"""Laws of the search: within the budget, nothing kept for nothing, and no trace on the modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from omni_rt.calibration.budget import products_for_a_token
from omni_rt.calibration.formats import FORMATS
from omni_rt.calibration.graph_writer import StageGraph
from omni_rt.calibration.groups import Group
from omni_rt.calibration.recording import Recorded
from omni_rt.calibration.rounded_stage import rounded
from omni_rt.calibration.rounding import rounded_activation, rounded_matrix
from omni_rt.calibration.search import (
    Assignment,
    Candidate,
    Sensitivity,
    assigned,
    cheapest,
    search,
    sensitivities,
    velocity_error,
)
from omni_rt.calibration.smooth import Smoothing
from omni_rt.compare_steps import guided
from omni_rt.contract import Ports
from omni_rt.errors import ExportError
from omni_rt.export.graphs import Stage
from omni_rt.export.reference.engine import TorchEngine
from omni_rt.manifest import TensorSpec
from omni_rt.metrics import rel_l2
from omni_rt.targets import StageFormat
from tests.calibration.small import (
    miniature_stage,
    noise,
    parity_inputs,
    quick_miniature,
    smoothing,
)

INT8, WIDTH = FORMATS["uint8"], 64
CFG = 3.0


class Chain(nn.Module):
    """x [R, 64, L] → v: five matrices in a row on its channels, of different weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(5))
        self.idle = nn.Linear(WIDTH, WIDTH)  # whose output nobody takes
        for i, layer in enumerate((*self.layers, self.idle)):
            layer.weight.data = noise(WIDTH, WIDTH, seed=i) / 8
            layer.bias.data = noise(WIDTH, seed=i)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2)
        self.idle(rows)
        for i, layer in enumerate(self.layers):
            rows = rows + 4.0**-i * layer(rows).tanh()
        return rows.transpose(1, 2)


def chain() -> Stage:
    port = {"dtype": "float32", "shape": ("R", WIDTH, "L")}
    return Stage(
        name="dit_step",
        module=Chain(),
        ports=Ports(
            inputs=(TensorSpec(name="x", **port),),  # type: ignore[arg-type]
            outputs=(TensorSpec(name="v", **port),),  # type: ignore[arg-type]
        ),
        official_names={"": "model."},
        examples={},
        data_file="chain.data",
    )


def choices(width: int = WIDTH) -> list[Smoothing]:
    names = [f"model.layers.{i}.weight" for i in range(5)] + ["model.idle.weight"]
    return [
        smoothing(Group(matrices=(name,), divided=()), torch.ones(width), largest=6.0)
        for name in names
    ]


def candidates(*, weights: bool = False) -> list[Candidate]:
    """The chain's matrices, with their weights alone to be rounded where that is offered."""
    return [
        Candidate(
            name=own.group.name,
            values=WIDTH * WIDTH,
            kept_bytes=WIDTH * WIDTH,
            full=own,
            weights=replace(own, weights_only=True) if weights else None,
        )
        for own in choices()
    ]


def recorded(stage: Stage, *, rows: int = 2) -> list[Recorded]:
    calls = []
    for seed in range(3):
        x = noise(rows, WIDTH, 7, seed=seed)
        calls.append(Recorded(case="c", arrays={"x": x.numpy(), "v": stage.module(x).numpy()}))
    return calls


def state(stage: Stage) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in stage.module.state_dict().items()}


def assert_untouched(stage: Stage, before: dict[str, Tensor]) -> None:
    for name, value in stage.module.state_dict().items():
        assert torch.equal(value, before[name])
    for layer in stage.module.modules():
        assert not layer._forward_pre_hooks


def silent(_: str) -> None:
    return


def found(*errors_and_values: tuple[float, int]) -> list[Sensitivity]:
    """Of groups that are rounded in full or kept."""
    return [
        Sensitivity(group=f"g{i}", error=error, values=values, kept_bytes=values)
        for i, (error, values) in enumerate(errors_and_values)
    ]


def with_weights(*errors: tuple[float, float, int]) -> list[Sensitivity]:
    """Of groups: error in full, of the weights alone, values."""
    return [
        Sensitivity(group=f"g{i}", error=full, weights_error=weights, values=n, kept_bytes=n)
        for i, (full, weights, n) in enumerate(errors)
    ]


def together(some: Sequence[Sensitivity]) -> float:
    return float(np.sqrt(sum((s.error or 0.0) ** 2 for s in some)))


def costs(found: Sequence[Sensitivity], assignment: Assignment) -> tuple[int, int, float]:
    """Bytes, multiplications in high precision and the error of what is assigned."""
    kept, weights = set(assignment.kept), set(assignment.weights_only)
    assert not kept & weights
    errors = [
        s.weights_error if s.group in weights else s.error for s in found if s.group not in kept
    ]
    return (
        sum(s.kept_bytes for s in found if s.group in kept),
        sum(s.values for s in found if s.group in kept | weights),
        float(np.sqrt(sum((error or 0.0) ** 2 for error in errors))),
    )


def random_sensitivities(seed: int, count: int) -> list[Sensitivity]:
    stream = np.random.RandomState(seed)
    return found(*((stream.rand() ** 3, stream.randint(1, 100)) for _ in range(count)))


def test_a_large_budget_keeps_nothing() -> None:
    own = random_sensitivities(0, 12)
    assigned = cheapest(own, budget=together(own) * 1.000001)
    assert assigned.kept == ()
    assert assigned.predicted == pytest.approx(together(own))


def test_no_budget_keeps_everything_that_has_an_error() -> None:
    own = found((0.1, 5), (0.0, 7), (1e-9, 3))
    assigned = cheapest(own, budget=0.0)
    assert set(assigned.kept) == {"g0", "g2"}
    assert assigned.predicted == 0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.95])
def test_an_assignment_is_in_budget_and_keeps_nothing_for_nothing(seed: int, share: float) -> None:
    own = random_sensitivities(seed, 10)
    budget = share * together(own)
    assigned = cheapest(own, budget=budget)
    rest = [s for s in own if s.group not in assigned.kept]
    assert assigned.predicted == pytest.approx(together(rest))
    assert assigned.predicted <= budget
    for one in assigned.kept:
        more = [*rest, next(s for s in own if s.group == one)]
        assert together(more) > budget, one


@pytest.mark.parametrize("seed", range(8))
def test_an_assignment_is_not_much_dearer_than_the_best(seed: int) -> None:
    """Against every assignment; greedy choice is not optimal, but no more than a group off."""
    own = random_sensitivities(seed, 9)
    budget = 0.4 * together(own)
    best = min(
        sum(s.values for s in kept)
        for n in range(len(own) + 1)
        for kept in combinations(own, n)
        if together([s for s in own if s not in kept]) <= budget
    )
    kept = cheapest(own, budget=budget).kept
    assert best <= sum(s.values for s in own if s.group in kept) <= best + 100


def test_one_that_is_enough_alone_is_kept_alone() -> None:
    """Small groups take more of the error for their size, but do not suffice."""
    own = found((0.3, 1), (0.3, 1), (1.0, 100))
    assert cheapest(own, budget=0.5).kept == ("g2",)


def test_weights_alone_are_rounded_where_that_is_enough() -> None:
    """The dear one on its middle rung brings the error from .4 to .06, and nothing is kept."""
    own = with_weights((0.4, 0.05, 100), (0.03, 0.01, 10), (0.02, 0.01, 1))
    assigned = cheapest(own, budget=0.07)
    assert assigned.kept == ()
    assert assigned.weights_only == ("g0",)
    assert assigned.predicted == pytest.approx((0.05**2 + 0.03**2 + 0.02**2) ** 0.5)


def test_fewer_bytes_go_before_fewer_multiplications() -> None:
    """Keeping the small one alone would do, but all weights alone store less."""
    own = with_weights((0.4, 0.05, 10), (0.3, 0.05, 1000), (0.3, 0.05, 1000))
    assert set(cheapest(own, budget=0.09).weights_only) == {"g0", "g1", "g2"}
    assert cheapest(own, budget=0.09).kept == ()
    assert cheapest(own, budget=0.45).weights_only == ("g0",)
    assert cheapest(own, budget=0.08).kept == ("g0",)  # .0866 on their middle rungs
    assert set(cheapest(own, budget=0.08).weights_only) == {"g1", "g2"}


def test_weights_that_err_no_less_alone_are_not_spared() -> None:
    own = with_weights((0.1, 0.1, 10), (0.1, 0.2, 10), (0.3, 0.1, 10))
    assigned = cheapest(own, budget=0.2)
    assert (assigned.kept, assigned.weights_only) == ((), ("g2",))
    assert set(cheapest(own, budget=0.15).kept) < {"g0", "g1", "g2"}
    assert set(cheapest(own, budget=0.15).weights_only) <= {"g2"}


def test_what_may_only_have_its_weights_rounded_never_is_in_full() -> None:
    own = [replace(s, error=None) for s in with_weights((0, 0.1, 10), (0, 0.2, 10))]
    assert set(cheapest(own, budget=1.0).weights_only) == {"g0", "g1"}
    assert cheapest(own, budget=1.0).predicted == pytest.approx(0.05**0.5)
    assert cheapest(own, budget=0.15).kept == ("g1",)
    assert cheapest(own, budget=0.15).weights_only == ("g0",)


def test_attentions_are_kept_before_anything_that_takes_bytes() -> None:
    attention = Sensitivity(group="a", error=0.3, values=500, kept_bytes=0)
    own = [*found((0.3, 10)), attention]
    assert cheapest(own, budget=0.35).kept == ("a",)
    assert cheapest(own, budget=0.5).kept == ()


@pytest.mark.parametrize("seed", range(6))
def test_of_all_assignments_few_store_less_or_multiply_less(seed: int) -> None:
    """Against every one; greedy choice may be a group off in either."""
    stream = np.random.RandomState(seed)
    rows = [(stream.rand() ** 2, stream.rand(), stream.randint(1, 100)) for _ in range(6)]
    own = with_weights(*((full, full * share, n) for full, share, n in rows))
    budget = 0.25 * together(own)
    best = min(
        (bytes_, values)
        for rungs in product("fwk", repeat=len(own))
        for bytes_, values, error in [costs(own, by_hand(own, rungs))]
        if error <= budget
    )
    made = cheapest(own, budget=budget)
    bytes_, values, error = costs(own, made)
    assert error == pytest.approx(made.predicted)
    assert error <= budget
    assert best <= (bytes_, values)
    assert bytes_ <= best[0] + 100
    if bytes_ == best[0]:
        assert values <= best[1] + 100


def by_hand(own: Sequence[Sensitivity], rungs: Sequence[str]) -> Assignment:
    on = {rung: [s.group for s, r in zip(own, rungs, strict=True) if r == rung] for rung in "wk"}
    return Assignment(kept=tuple(on["k"]), weights_only=tuple(on["w"]), predicted=0.0)


def test_guidance_weighs_conditional_rows_by_its_scale() -> None:
    velocity = np.stack([np.full((2, 3), 5.0), np.full((2, 3), 4.0)]).astype(np.float32)
    assert (guided(velocity, 3.0) == 7.0).all()
    assert guided(velocity, 3.0).shape == (1, 2, 3)


def test_at_scale_one_all_rows_are_conditional() -> None:
    """The loop then evaluates no others, so three rows are three results."""
    velocity = noise(3, 2, 4).numpy()
    assert np.array_equal(guided(velocity, 1.0), velocity)


@pytest.mark.parametrize("name", ["uint8", "fp8", "int4"])
def test_each_group_is_judged_alone_and_the_module_stays_as_it_was(name: StageFormat) -> None:
    stage = chain()
    calls, before = recorded(stage), state(stage)
    own = sensitivities(stage, candidates(), calls, FORMATS[name], cfg_scale=CFG, progress=silent)
    assert_untouched(stage, before)
    assert [s.group for s in own] == [c.group.name for c in choices()]
    assert all(s.values == WIDTH * WIDTH for s in own)
    assert own[-1].error == 0  # nobody takes what the idle one makes
    errors = [s.error or 0.0 for s in own]
    assert all(error > 0 for error in errors[:-1])
    assert errors[0] > errors[-2]  # it counts 256 times as much
    exact = [guided(call.arrays["v"], CFG) for call in calls]
    with rounded(stage, choices()[:1], FORMATS[name]):
        again = velocity_error(stage, calls, exact, cfg_scale=CFG)
    assert again == own[0].error


def test_the_error_of_the_exact_module_is_none() -> None:
    stage = chain()
    calls = recorded(stage)
    exact = [guided(call.arrays["v"], CFG) for call in calls]
    assert velocity_error(stage, calls, exact, cfg_scale=CFG) < 1e-6


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.5])
def test_what_a_search_leaves_is_measured_and_in_budget(share: float) -> None:
    stage = chain()
    calls, before = recorded(stage), state(stage)
    exact = [guided(call.arrays["v"], CFG) for call in calls]
    with rounded(stage, choices(), INT8):
        everything = velocity_error(stage, calls, exact, cfg_scale=CFG)
    budget = share * everything
    result = search(stage, candidates(), calls, INT8, budget=budget, cfg_scale=CFG, progress=silent)
    assert_untouched(stage, before)
    rest = [c for c in choices() if c.group.name not in result.assignment.kept]
    with rounded(stage, rest, INT8):
        measured = velocity_error(stage, calls, exact, cfg_scale=CFG)
    assert measured == result.measured <= budget
    assert (result.assignment.kept == ()) == (share > 1)
    assert "model.idle.weight" not in result.assignment.kept  # its rounding costs nothing


@pytest.mark.parametrize("name", ["uint8", "fp8"])
def test_a_search_rounds_weights_alone_before_it_keeps(name: StageFormat) -> None:
    """Of this chain all weights alone are off by less than half of what rounding in full makes."""
    stage, format = chain(), FORMATS[name]
    calls, before = recorded(stage), state(stage)
    both = candidates(weights=True)
    own = sensitivities(stage, both, calls, format, cfg_scale=CFG, progress=silent)
    assert_untouched(stage, before)
    assert all((s.weights_error or 0.0) < (s.error or 0.0) for s in own[:-1])
    all_alone = Assignment(kept=(), weights_only=tuple(c.name for c in both), predicted=0.0)
    exact = [guided(call.arrays["v"], CFG) for call in calls]
    with assigned(stage, both, all_alone, format):
        least = velocity_error(stage, calls, exact, cfg_scale=CFG)
    result = search(stage, both, calls, format, budget=1.1 * least, cfg_scale=CFG, progress=silent)
    assert_untouched(stage, before)
    assert result.measured <= 1.1 * least
    assert result.assignment.kept == ()
    assert "model.layers.0.weight" in result.assignment.weights_only
    assert "model.idle.weight" not in result.assignment.weights_only


def test_a_search_without_guidance_is_one_of_the_conditional_rows() -> None:
    stage = chain()
    result = search(
        stage, candidates(), recorded(stage, rows=1), INT8, budget=1.0, cfg_scale=1.0,
        progress=silent,
    )  # fmt: skip
    assert result.assignment.kept == ()


def test_a_budget_that_nothing_meets_is_an_error() -> None:
    stage = chain()
    before = state(stage)
    with pytest.raises(ExportError, match="no group of matrices can be rounded"):
        search(
            stage, candidates()[:-1], recorded(stage), INT8, budget=1e-9, cfg_scale=CFG,
            progress=silent,
        )  # fmt: skip
    assert_untouched(stage, before)


def test_rounding_is_undone_whatever_happens() -> None:
    stage = chain()
    before = state(stage)

    def interrupted() -> None:
        with rounded(stage, choices(), INT8):
            assert not torch.equal(stage.module.layers[0].weight, before["layers.0.weight"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert_untouched(stage, before)


def test_rounding_that_fails_half_way_is_undone() -> None:
    """The first is in blocks of 64 already when the second turns out to have none."""
    stage = chain()
    stage.module.layers[1] = nn.Linear(60, WIDTH).requires_grad_(False)
    before = state(stage)
    with pytest.raises(ExportError, match="60 inputs"), rounded(stage, choices(), FORMATS["int4"]):
        raise AssertionError("entered")
    assert_untouched(stage, before)


def test_rounded_modules_read_and_multiply_what_the_graph_will() -> None:
    stage, x = chain(), 5 * noise(2, WIDTH, 7)
    layer = stage.module.idle
    seen: list[Tensor] = []
    with rounded(stage, choices(), INT8):
        layer.register_forward_hook(lambda _, given, out: seen.append(out))
        stage.module(x)
    rows = rounded_activation(x.transpose(1, 2), 6.0, INT8)
    wanted = rows @ rounded_matrix(layer.weight, INT8).dequantised().T + layer.bias
    assert rel_l2(seen[0], wanted) < 1e-6


@pytest.mark.parametrize("name", ["uint8", "fp8"])
def test_weights_alone_multiply_what_was_read_and_are_worth_what_is_stored(
    name: StageFormat,
) -> None:
    """To the bit: the product of the exact activation and the dequantised matrix."""
    stage, x = chain(), 5 * noise(2, WIDTH, 7)
    layer, own = stage.module.idle, [replace(c, weights_only=True) for c in choices()]
    exact, seen = layer.weight.clone(), list[Tensor]()
    with rounded(stage, own, FORMATS[name]):
        stored = rounded_matrix(exact, FORMATS[name].weights_alone).dequantised()
        assert torch.equal(layer.weight, stored)
        layer.register_forward_hook(lambda _, given, out: seen.append(out))
        stage.module(x)
    rows = x.transpose(1, 2)
    assert torch.equal(seen[0], nn.functional.linear(rows, stored, layer.bias))
    assert torch.equal(layer.weight, exact)


def test_weights_alone_are_tried_with_their_own_factor_in_a_stage_folded_by_another() -> None:
    stage = chain()
    layer = stage.module.idle
    (other,) = [c for c in choices() if c.group.name == "model.idle.weight"]
    by, own = noise(WIDTH).exp(), noise(WIDTH, seed=1).exp()
    exact = layer.weight.clone()
    layer.weight.data = exact * by
    folded, alone = replace(other, factor=by), replace(other, factor=own, weights_only=True)
    with rounded(stage, [alone.beside(folded)], INT8):
        worth = rounded_matrix(exact * own, INT8).dequantised() / own
        assert rel_l2(layer.weight / by, worth) < 1e-3  # a few fall to the other side


def test_an_unknown_matrix_is_no_silent_success() -> None:
    own = smoothing(Group(matrices=("model.none.weight",), divided=()), torch.ones(WIDTH))
    with pytest.raises(AssertionError), rounded(chain(), [own], INT8):
        pass


def test_attentions_in_fp8_are_candidates_that_cost_what_they_multiply() -> None:
    """Of the miniature's step: by name, with an error of their own, kept like matrices."""
    stage, inputs = miniature_stage("dit_step"), parity_inputs("dit_step")
    given = {port.name: inputs[port.name] for port in stage.ports.inputs}
    dims = quick_miniature().manifest.dims
    call = Recorded(case="c", arrays={**given, **TorchEngine(stage).run(**given)})
    names = [
        name.removesuffix(".to_q.weight")
        for names in StageGraph(quick_miniature(), "dit_step").groups()
        for name in names
        if name.endswith(("layers.0.self_attn.to_q.weight", "layers.0.cross_attn.to_q.weight"))
    ]
    own = [
        Candidate(
            name=name, values=products_for_a_token(name, [call]), kept_bytes=0,
            attention=((8.0, 8.0), (1.0, 8.0)),
        )
        for name in names
    ]  # fmt: skip
    found = sensitivities(stage, own, [call], FORMATS["fp8"], cfg_scale=CFG, progress=silent)
    assert [s.group for s in found] == names
    assert all((s.error or 0.0) > 0 for s in found)
    tokens = {"self_attn": given["x"].shape[2] + given["prepend"].shape[1]}
    tokens["cross_attn"] = given["k_00"].shape[2]
    assert [s.values for s in found] == [2 * dims.width * tokens[n.split(".")[-1]] for n in names]
    budget = 0.999 * max(s.error or 0.0 for s in found)
    result = search(
        stage, own, [call], FORMATS["fp8"], budget=budget, cfg_scale=CFG, progress=silent
    )
    assert result.assignment.kept
    assert result.measured <= budget
