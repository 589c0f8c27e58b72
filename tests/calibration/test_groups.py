"""What groups say is held against the modules themselves: who reads what, and who makes it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from omni_rt.calibration.graph_writer import StageGraph
from omni_rt.calibration.groups import Group, groups_of
from omni_rt.calibration.recipes import is_rounded
from omni_rt.export.graphs import Stage
from tests.calibration.small import miniature_stage, noise, quick_miniature, shared_heads_thinker

TOWERS = ("audio_tower", "vision_tower", "synchformer", "thinker_cond", "thinker_lm")
STAGES = ("context", "dit_step", *TOWERS)
# A linear layer or a norm makes these too, but for many blocks, or four tokens, at once.
NOT_USED = ("to_cond_embed.2.weight", "merger.ln_q.weight")


@dataclass
class Family:
    """Stages that feed each other, with inputs small enough to run hundreds of times."""

    stages: dict[str, Stage]

    def tensors(self) -> dict[str, Tensor]:
        """Weights by official name."""
        return {
            stage.official_name(path): value
            for stage in self.stages.values()
            for path, value in stage.module.state_dict().items()
        }

    def linears(self) -> Iterator[tuple[str, nn.Linear]]:
        for stage in self.stages.values():
            for path, layer in stage.module.named_modules():
                if isinstance(layer, nn.Linear):
                    yield stage.official_name(f"{path}.weight"), layer

    def run(self) -> list[Tensor]:
        if "dit_step" in self.stages:
            return self._step()
        (stage,) = self.stages.values()
        made = stage.module(*stage.arguments(_small_inputs(stage)))
        return list(made) if isinstance(made, tuple) else [made]

    def _step(self) -> list[Tensor]:
        """`context`, then a step that two rows attend in and one does not."""
        context, step = self.stages["context"], self.stages["dit_step"]
        cache = list(context.module(*_small_inputs(context)))
        two = [part.expand(2, -1, -1, -1) for part in cache]
        channels, width = step.ports.inputs[0].shape[1], step.ports.inputs[2].shape[2]
        assert isinstance(channels, int)
        assert isinstance(width, int)
        x, t, prepend = noise(3, channels, 5), torch.tensor([0.2, 0.5, 0.5]), noise(3, 2, width)
        return [step.module(x, t, prepend, torch.zeros(2, 1, 1, cache[0].shape[2]), two)]

    def read(self) -> dict[str, Tensor]:
        """Run, and what every matrix read, as rows [n, K]: the tensors themselves."""
        found: dict[str, Tensor] = {}
        hooks = [
            layer.register_forward_pre_hook(_keep(found, name)) for name, layer in self.linears()
        ]
        try:
            self.run()
        finally:
            for hook in hooks:
                hook.remove()
        return found


def _keep(found: dict[str, Tensor], name: str):  # type: ignore[no-untyped-def]
    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        found[name] = given[0]

    return hook


def _small_inputs(stage: Stage) -> list[Tensor]:
    sizes = {**stage.examples, "S": 1, "n": 3, "chunks": 2, "past": 0, "total": 7}
    given = []
    for i, port in enumerate(stage.ports.inputs):
        shape = [sizes[n] if isinstance(n, str) else n for n in port.shape]
        if port.dtype == "float32":
            given.append(noise(*shape, seed=i) * 0.5)
        elif port.name == "position_ids":
            given.append(torch.arange(shape[-1]).expand(*shape))
        elif port.name == "lengths":
            given.append(torch.tensor([200, 120]))
        else:
            given.append(torch.ones(shape, dtype=torch.int64))
    return given


def family_of(stage: str) -> Family:
    names = ("context", "dit_step") if stage in ("context", "dit_step") else (stage,)
    stages = {name: miniature_stage(name) for name in names}
    found = Family(stages)
    for i, (name, value) in enumerate(found.tensors().items()):
        if name.endswith(("gamma", "beta", "bias")) or "norm" in name:  # no ones, no zeros
            value += 0.3 * noise(*value.shape, seed=i)
    return found


def groups(family: Family, stage: str) -> tuple[Group, ...]:
    """As recipes make them: from the graph, of what is rounded."""
    thinker = quick_miniature().manifest.dims.thinker
    assert thinker is not None
    shapes = {name: tuple(value.shape) for name, value in family.tensors().items()}
    wanted = [own for own in StageGraph(quick_miniature(), stage).groups() if is_rounded(own[0])]
    return groups_of(wanted, shapes, head_width=thinker.head_width)


@contextmanager
def rows_scaled(tensor: Tensor, factor: Tensor) -> Iterator[None]:
    """The first rows, or values, of a weight times a factor each."""
    before = tensor.clone()
    tensor[: len(factor)] *= factor.reshape(-1, *[1] * (tensor.ndim - 1))
    yield
    tensor.copy_(before)


def ratio(before: Tensor, after: Tensor) -> Tensor | None:
    """By what each channel was multiplied, if all rows say the same; else None."""
    rows, others = before.flatten(0, -2).double(), after.flatten(0, -2).double()
    found = (rows * others).sum(0) / rows.square().sum(0).clamp(min=1e-30)
    off = (others - rows * found).norm() / others.norm().clamp(min=1e-30)
    return found if off < 1e-4 and (found - 1).abs().max() > 1e-2 else None


def makers_found(family: Family, own: Sequence[Group]) -> dict[str, set[str]]:
    """Of each group, weights whose first rows multiply the channels of what it reads."""
    before = family.read()
    found: dict[str, set[str]] = {group.name: set() for group in own}
    for name, tensor in family.tensors().items():
        if tensor.dtype != torch.float32 or tensor.ndim not in (1, 2) or is_later(name):
            continue
        groups_by_rows: dict[int, list[Group]] = {}
        for group in own:
            rows = min(len(tensor), before[group.name].shape[-1])
            groups_by_rows.setdefault(rows, []).append(group)
        for rows, several in groups_by_rows.items():
            order = torch.randperm(rows, generator=torch.Generator().manual_seed(rows))
            with rows_scaled(tensor, torch.linspace(0.5, 2, rows)[order]):
                after = family.read()
            for group in several:
                if ratio(before[group.name], after[group.name]) is not None:
                    found[group.name].add(name)
    return found


def is_later(name: str) -> bool:
    """Whether it belongs to another block than the first."""
    found = re.search(r"\.(layers|blocks)\.(\d+)\.", name)
    return found is not None and found[2] != "0"


@pytest.mark.parametrize("stage", STAGES)
def test_matrices_of_a_group_read_the_same_tensor_and_others_another(stage: str) -> None:
    family = family_of(stage)
    read = family.read()
    own = Family({stage: family.stages[stage]}).tensors()
    by_tensor: dict[tuple[int, int], set[str]] = {}
    for name, tensor in read.items():
        if name in own and is_rounded(name):
            by_tensor.setdefault((tensor.data_ptr(), id(tensor)), set()).add(name)
    assert sorted(map(sorted, by_tensor.values())) == sorted(
        sorted(group.matrices) for group in groups(family, stage)
    )


@pytest.mark.parametrize("stage", STAGES)
def test_every_tensor_that_is_divided_exists_and_is_made_once(stage: str) -> None:
    family = family_of(stage)
    tensors, made = family.tensors(), groups(family, stage)
    divided = [name for group in made for name in group.divided]
    assert all(name in tensors for name in divided)
    assert len(divided) == len(set(divided))
    for group in made:
        width = tensors[group.name].shape[1]
        assert all(len(tensors[name]) * group.shared_by >= width for name in group.divided)
        assert all(tensors[name].shape[1] == width for name in group.matrices)


@pytest.mark.parametrize("stage", STAGES)
def test_dividing_the_makers_divides_what_is_read_and_nothing_else_that_is_read(
    stage: str,
) -> None:
    family = family_of(stage)
    before, tensors = family.read(), family.tensors()
    for group in groups(family, stage):
        if not group.divided:
            continue
        width = tensors[group.name].shape[1] // group.shared_by
        factor = 0.5 + torch.rand(width, generator=torch.Generator().manual_seed(1))
        own = {name: tensors[name].clone() for name in (*group.divided, *group.matrices)}
        spread = factor
        if group.shared_by > 1:
            heads = factor.unflatten(0, (-1, 1, group.head_width))
            spread = heads.expand(-1, group.shared_by, -1).flatten()
        for name in group.divided:
            value = tensors[name]
            value[:width] /= factor.reshape(-1, *[1] * (value.ndim - 1))
        for name in group.matrices:
            tensors[name].mul_(spread)
        after = family.read()
        for name, value in own.items():
            tensors[name].copy_(value)
        for name, rows in before.items():
            wanted = rows / spread if name in group.matrices else rows
            assert (after[name] - wanted).norm() <= 1e-5 * wanted.norm(), (group.name, name)


@pytest.mark.parametrize("stage", STAGES)
def test_no_maker_is_missed(stage: str) -> None:
    """Every weight is tried for every activation of the first block, of biases without any."""
    family = family_of(stage)
    for name, value in family.tensors().items():
        if name.endswith(("bias", "beta")):
            value.zero_()
    own = [group for group in groups(family, stage) if not is_later(group.name)]
    found = makers_found(family, own)
    for group in own:
        used = {n for n in group.divided if not n.endswith(("bias", "beta"))}
        assert {n for n in found[group.name] if not n.endswith(NOT_USED)} == used, group.name


def test_heads_that_share_values_have_their_channels_tied() -> None:
    """Of 6 query heads, 0 to 2 read the values of head 0 and 3 to 5 those of head 1."""
    module, head_width = shared_heads_thinker()
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    (group,) = groups_of(
        [("model.layers.1.self_attn.o_proj.weight",)],
        {f"{name}": shape for name, shape in shapes.items()},
        head_width=head_width,
    )
    assert (group.shared_by, group.head_width) == (3, head_width)
    read: dict[str, Tensor] = {}
    layer = module.model.layers[1].self_attn
    layer.o_proj.register_forward_pre_hook(_keep(read, "o"))
    run_thinker(module)
    before, factor = read["o"], 1 + torch.rand(16, generator=torch.Generator().manual_seed(2))
    layer.v_proj.weight.mul_(factor[:, None])
    layer.v_proj.bias.mul_(factor)
    run_thinker(module)
    found = ratio(before, read["o"])
    assert found is not None
    heads = factor.unflatten(0, (2, 1, head_width)).expand(-1, 3, -1).flatten()
    torch.testing.assert_close(found.float(), heads, rtol=1e-4, atol=0)


def run_thinker(module: nn.Module, *, past: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
    """Five new tokens after none, or after those of a cache."""
    old = 0 if past is None else past[0].shape[2]
    cache = [torch.zeros(1, 2, 0, 8)] * 4 if past is None else list(past)
    positions = torch.arange(old, old + 5).expand(3, 1, 5)
    mask = torch.ones(1, old + 5, dtype=torch.int64)
    made: tuple[Tensor, ...] = module(noise(1, 5, 48, seed=old), positions, mask, cache)
    return made


@pytest.mark.parametrize(
    "matrices",
    [
        ("a.layers.0.self_attn.to_q.weight", "a.layers.0.self_attn.to_k.weight"),  # one is missing
        ("a.layers.0.self_attn.to_q.weight", "b.layers.0.self_attn.to_k.weight"),
        ("a.layers.0.unknown.weight",),
    ],
)
def test_what_no_rule_knows_has_no_makers(matrices: tuple[str, ...]) -> None:
    tensors = {
        **dict.fromkeys(matrices, (8, 8)),
        "a.layers.0.pre_norm.gamma": (8,),
        "a.layers.0.pre_norm.beta": (8,),
    }
    (group,) = groups_of([matrices], tensors, head_width=None)
    assert group == Group(matrices=matrices, divided=())


def test_without_its_makers_a_rule_does_not_apply() -> None:
    """`dit_step` alone, without the `context` that makes its values."""
    matrix = "m.layers.0.cross_attn.to_out.weight"
    (alone,) = groups_of([(matrix,)], {matrix: (8, 8)}, head_width=None)
    assert alone.divided == ()
    maker = "m.layers.0.cross_attn.to_v.weight"
    (both,) = groups_of([(matrix,)], {matrix: (8, 8), maker: (8, 8)}, head_width=None)
    assert both.divided == (maker,)
