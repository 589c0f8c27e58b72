"""A torch stage rounds as its graph does, and only while it is asked to."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from omni_rt.calibration.attention import products_of
from omni_rt.calibration.formats import FORMATS
from omni_rt.calibration.graph_writer import Recipe, StageGraph
from omni_rt.calibration.rounded_stage import rounded
from omni_rt.calibration.smooth import Folds
from omni_rt.errors import ExportError
from omni_rt.export.reference.engine import TorchEngine
from omni_rt.metrics import rel_l2
from tests.calibration.small import (
    engine_of,
    miniature_stage,
    parity_inputs,
    quick_miniature,
    write_stage,
)

FP8 = FORMATS["fp8"]


@cache
def sizes() -> dict[str, float]:
    """As if every projection, key and value reached 8: E4M3 loses nothing by a larger bound."""
    graph = StageGraph(quick_miniature(), "dit_step")
    made = [name for names in graph.groups() for name in names]
    return dict.fromkeys([*made, *(port.name for port in graph.spec.inputs)], 8.0)


def velocity(spared: frozenset[str], folder: Path) -> np.ndarray:
    """By the graph, whose attentions alone are rounded."""
    recipe = Recipe(
        format=FP8, smoothings={}, folds=Folds(()), fold_id="fp8", attention=sizes(), spared=spared
    )
    path = write_stage("dit_step", recipe, folder)
    engine = engine_of(path, quick_miniature().graph("dit_step"), precision="fp8")
    return engine.run(**given())["v"]


def given() -> dict[str, np.ndarray]:
    spec = quick_miniature().graph("dit_step")
    inputs = parity_inputs("dit_step")
    return {port.name: inputs[port.name] for port in spec.inputs}


def emulated(names: frozenset[str]) -> np.ndarray:
    stage = miniature_stage("dit_step")
    chosen = {name: own for name, own in products_of(sizes()).items() if name in names}
    with rounded(stage, [], FP8, chosen):
        return TorchEngine(stage).run(**given())["v"]


@pytest.mark.parametrize("kind", ["self_attn", "cross_attn", ""])
def test_attentions_round_in_torch_as_in_the_graph(kind: str, tmp_path: Path) -> None:
    """Sums differ in their order, so a few numbers fall on the other side of a boundary."""
    every = frozenset(products_of(sizes()))
    names = frozenset(name for name in every if name.endswith(kind))
    assert names
    ours, exact = emulated(names), emulated(frozenset())
    error = rel_l2(ours, exact)
    assert error > 1e-4
    assert rel_l2(ours, velocity(every - names, tmp_path)) < 0.1 * error


def test_sparing_all_attentions_leaves_the_exact_graph(tmp_path: Path) -> None:
    every = frozenset(products_of(sizes()))
    assert len(every) == 2 * quick_miniature().manifest.dims.depth
    # the certificate's bound of an unrounded stage
    assert rel_l2(velocity(every, tmp_path), emulated(frozenset())) < 2e-5


def test_an_attention_that_the_graph_lacks_cannot_be_spared(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"lacks some of model\.none"):
        velocity(frozenset({"model.none"}), tmp_path)


def test_sizes_of_keys_nobody_observed_are_refused_by_name() -> None:
    query = "m.layers.3.cross_attn.to_q.weight"
    with pytest.raises(ExportError, match="k_03, v_03: not observed"):
        products_of({query: 1.0})


def test_the_stage_is_exact_again_also_after_an_error() -> None:
    stage = miniature_stage("dit_step")
    with pytest.raises(KeyboardInterrupt), rounded(stage, [], FP8, products_of(sizes())):
        raise KeyboardInterrupt
    ours = TorchEngine(stage).run(**given())["v"]
    assert torch.equal(torch.from_numpy(ours), torch.from_numpy(emulated(frozenset())))
