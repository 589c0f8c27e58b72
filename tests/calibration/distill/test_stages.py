"""Training the student: what a kill loses, what a bad number does, whom it imitates at the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from omni_rt.calibration.distill.devices import OneDevice
from omni_rt.calibration.distill.objective import Lessons, velocity_of
from omni_rt.calibration.distill.options import TrainingOptions
from omni_rt.calibration.distill.stages import train
from omni_rt.calibration.distill.trained import trained_parameters
from omni_rt.calibration.distill.training import Batches, optimisers
from omni_rt.errors import ExportError
from omni_rt.export.reference.dit import DiT
from tests.calibration.distill.tiny import NODES, random_dit, random_pairs, silence

CPU = torch.device("cpu")


def trained(
    folder: Path, *, kill_at: tuple[str, int] | None = None, nan: bool = False, **options: Any
) -> tuple[dict[str, Tensor], Lessons, DiT]:
    """Run both stages; `kill_at`: after which step of which stage the process is gone."""
    given: dict[str, Any] = {"segment_steps": 3, "tracking_steps": 2, "batch": 8, "rate": 1e-2}
    how = TrainingOptions(**{**given, "warmup_steps": 1, "save_every_s": 0.0, **options})
    dit = random_dit()
    parameters = trained_parameters(dit, how, seed=0)
    calls: list[int] = []

    def velocity(x: Tensor, t: Tensor, conditioning: Any) -> Tensor:
        v: Tensor = velocity_of(dit)(x, t, conditioning)
        if torch.is_grad_enabled():
            calls.append(1)
            if kill_at == ("segments", len(calls) - 1):
                raise KeyboardInterrupt
            if kill_at == ("tracking", len(calls) - 1 - how.segment_steps):
                raise KeyboardInterrupt
            if nan and len(calls) == 3:
                return v * float("nan")
        return v

    lessons = Lessons(random_pairs(3), velocity, NODES, silence(), CPU)
    values = train(
        parameters, lessons, how, folder=folder, seed=1, devices=OneDevice(), tell=lambda _: None
    )
    return values, lessons, dit


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in theirs) and bool(theirs)


@pytest.mark.parametrize("kill_at", [("segments", 2), ("tracking", 1)])
def test_a_run_that_was_killed_equals_an_unbroken_one(
    tmp_path: Path, kill_at: tuple[str, int]
) -> None:
    whole, _, _ = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", kill_at=kill_at)
    again, _, dit = trained(tmp_path / "killed")
    assert same(again, whole)
    assert same({n: p.detach() for n, p in dit.named_parameters()}, whole)


def test_a_bad_number_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="step 2: the loss or its gradient is not finite"):
        trained(tmp_path, nan=True)
    state = torch.load(tmp_path / "segments.pt", weights_only=True)
    assert state["step"] == 2
    assert all(value.isfinite().all() for value in state["module"].values())


def test_a_full_disk_is_one_error_and_the_state_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path, tracking_steps=0)
    before = (tmp_path / "segments.pt").read_bytes()
    (tmp_path / "segments.pt").rename(tmp_path / "kept")

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] file write failed")

    monkeypatch.setattr(torch, "save", full)
    (tmp_path / "kept").rename(tmp_path / "segments.pt")
    with pytest.raises(ExportError, match="is the disk full"):
        trained(tmp_path, tracking_steps=0, segment_steps=4)
    assert (tmp_path / "segments.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_pieces_of_a_batch_add_up_to_it(tmp_path: Path) -> None:
    """AdamW divides by the gradient's size, so compare where it is not tiny: fp32 sums."""
    whole, _, _ = trained(tmp_path / "whole", segment_steps=1, tracking_steps=0, ema_decay=0.0)
    parts, _, _ = trained(
        tmp_path / "parts", segment_steps=1, tracking_steps=0, ema_decay=0.0, micro_batch=3
    )
    name = "transformer.layers.0.ff.ff.2.weight"
    close = (whole[name] - parts[name]).abs() < 1e-4
    assert close.float().mean() > 0.99


def test_both_stages_bring_the_student_nearer(tmp_path: Path) -> None:
    untrained = Lessons(random_pairs(3), velocity_of(random_dit()), NODES, silence(), CPU)
    before = untrained.error([0, 1, 2])
    _, lessons, _ = trained(tmp_path, segment_steps=40, tracking_steps=20, batch=12, rate=3e-3)
    assert lessons.error([0, 1, 2]) < 0.8 * before  # random trajectories are learnt slowly


def test_logs_can_be_read_by_tensorboard(tmp_path: Path) -> None:
    trained(tmp_path)
    for stage in ("segments", "tracking"):
        assert list((tmp_path / "logs" / stage).glob("events.out.tfevents.*"))
        assert (tmp_path / f"{stage}.jsonl").read_text().count("\n") == 1


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ExportError, match="bitsandbytes"):
        optimisers("adamw8bit")


def test_a_batch_less_than_a_trajectory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="batch of 3 is less than a trajectory of 4"):
        trained(tmp_path, batch=3)


def test_shares_of_several_devices_add_up_to_the_batch() -> None:
    """The mean of two devices' gradients is one's: fp32 sums in another order."""
    found = []
    for rank, count in ((0, 1), (0, 2), (1, 2)):
        devices = OneDevice()
        devices.rank, devices.count = rank, count
        dit = random_dit()
        lessons = Lessons(random_pairs(3), velocity_of(dit), NODES, silence(), CPU)
        batches = Batches(lessons.segment_loss, among=12, drawn=8, at_once=8, devices=devices)
        batches(np.random.RandomState(0))["loss"].backward()
        gradient = dit.transformer.project_in.weight.grad
        assert gradient is not None
        found.append(gradient)
    torch.testing.assert_close((found[1] + found[2]) / 2, found[0], rtol=1e-4, atol=1e-6)
