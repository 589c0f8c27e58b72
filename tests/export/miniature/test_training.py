"""The training loop: what a kill loses, what a bad number does; and how matrices are turned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from omni_rt.errors import ExportError
from omni_rt.export.miniature.muon import orthogonalised
from omni_rt.export.miniature.training import Losses, Schedule, Training, optimisers_of
from omni_rt.metrics import rel_l2


def training(folder: Path, *, steps: int = 6, width: int = 3) -> Training:
    torch.manual_seed(0)
    schedule = Schedule(steps=steps, peak_rate=0.1, warmup_steps=2, orthogonal=("weight",))
    return Training(nn.Linear(width, 1), schedule, folder=folder, name="line", seed=5)


def fit(run: Training, *, spoil_at: int | None = None) -> None:
    def objective(stream: np.random.RandomState) -> Losses:
        x = torch.from_numpy(stream.standard_normal((8, 3)).astype(np.float32))
        loss = (run.module(x) - x.sum(1, keepdim=True)).square().mean()
        loss = loss + 0.01 * torch.randn(()) * run.module.weight.sum()  # torch's stream counts too
        return {"loss": loss * float("nan") if run.step == spoil_at else loss}

    run.run(objective, lambda _: None)


def weights(run: Training) -> list[torch.Tensor]:
    return [*run.module.state_dict().values(), *run.average.state_dict().values()]


def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = training(tmp_path / "whole")
    fit(whole)
    killed = training(tmp_path / "killed")
    killed.save_every_s = 0.0
    with pytest.raises(ExportError):
        fit(killed, spoil_at=3)
    again = training(tmp_path / "killed")
    assert again.resume()
    assert again.step == 3
    fit(again)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


def test_a_bad_number_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    run = training(tmp_path)
    run.save_every_s = 0.0
    with pytest.raises(ExportError, match="step 4: the loss or its gradient is not finite"):
        fit(run, spoil_at=4)
    kept = training(tmp_path)
    kept.resume()
    assert kept.step == 4
    assert all(torch.isfinite(value).all() for value in weights(kept))


def test_a_state_of_another_configuration_is_refused(tmp_path: Path) -> None:
    training(tmp_path).save()
    with pytest.raises(ExportError, match="another configuration"):
        training(tmp_path, width=4).resume()
    (tmp_path / "line.pt").write_bytes(b"no state")
    with pytest.raises(ExportError, match="cannot be read"):
        training(tmp_path).resume()


def test_nothing_to_resume_is_a_new_run(tmp_path: Path) -> None:
    assert not training(tmp_path / "new").resume()


def test_muon_turns_matrices_and_leaves_the_rest_to_adamw() -> None:
    torch.manual_seed(0)
    for shape in ((8, 20), (20, 8), (16, 16)):
        singular = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
        assert singular.min() > 0.3
        assert singular.max() < 1.3
    module = nn.ModuleDict({"in": nn.Linear(4, 8), "out": nn.Linear(8, 2)})
    schedule = Schedule(steps=1, peak_rate=1e-2, orthogonal=("in.",))
    adam, muon = optimisers_of(module, schedule)
    turned = [p for group in muon.param_groups for p in group["params"]]
    assert len(turned) == 1
    assert turned[0] is module["in"].weight
    assert sum(len(group["params"]) for group in adam.param_groups) == 3


def test_rounds_in_grams_space_are_the_rounds_of_the_matrix() -> None:
    """K. Jordan's iteration as it is written, in fp64: 1e-3 is what fp32 loses in five rounds."""
    a, b, c = 3.4445, -4.7750, 2.0315
    torch.manual_seed(0)
    for shape in ((24, 8), (8, 24)):
        matrix = torch.randn(shape)
        x = (matrix.T if shape[0] > shape[1] else matrix).double()
        x = x / x.norm()
        for _ in range(5):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        wanted = x.T if shape[0] > shape[1] else x
        assert rel_l2(orthogonalised(matrix).numpy(), wanted.numpy()) < 1e-3


def test_the_rate_warms_up_stays_and_falls() -> None:
    schedule = Schedule(steps=100, peak_rate=1.0, warmup_steps=10, level_share=0.5)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(10) == schedule.rate(50) == 1.0
    assert 0 < schedule.rate(100) < 0.01 < schedule.rate(75) < 1.0
