"""A disk that is full while a bundle is quantised: one error of ours, and nothing half done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from omni_rt.bundle import Bundle
from omni_rt.calibration import parity, quantise
from omni_rt.calibration.inputs import CalibrationSet
from omni_rt.calibration.quantise import QuantiseOptions, round_bundle
from omni_rt.calibration.ranges import LayerRange, Ranges, saving
from omni_rt.errors import ExportError, RequestError
from omni_rt.export.weight_file import WeightFile
from tests.full_disk import full_after
from tests.runtime.tiny_bundle import write_tiny_bundle

FULL_BYTES = 20_000  # of a file: more than the tiny bundle's largest, and than what is buffered
LARGE = 100_000
RECIPE = SimpleNamespace(format=None, fold_id="fold")


@dataclass
class _Graph:
    """A stage of which nothing but weights is written."""

    bundle: Bundle
    stage: str

    def write(self, recipe: object, file: WeightFile) -> None:
        (file.path.parent / f"{self.stage}.onnx").write_bytes(b"")
        file.add(torch.zeros(self.size // 4))

    size = 64


def ranges(done: tuple[str, ...], *, rows: int = 2) -> Ranges:
    """Of one matrix, with so many rows."""
    layer = LayerRange(
        channel_max=np.ones(50, np.float32),
        low=np.zeros(50, np.float32),
        high=np.ones(50, np.float32),
        rows=np.ones((rows, 50), np.float32),
        output_max=1.0,
    )
    return Ranges(layers={"dit_step": {"w": layer}}, inputs="i", graphs={}, done=done)


@pytest.fixture
def rounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """`round_bundle` of a bundle in form, whose matrices nobody looks at."""
    write_tiny_bundle(tmp_path / "source")
    made = QuantiseOptions(bundle=tmp_path / "source", out=tmp_path / "out")
    observed = ranges(("T2A/0",))

    def observe(*_: Any, **__: Any) -> Any:
        observed.write(tmp_path / "out.ranges.npz")
        return {}, observed

    recipes = SimpleNamespace(by_stage=defaultdict(lambda: RECIPE))
    monkeypatch.setattr(quantise, "observed_ranges", observe)
    monkeypatch.setattr(quantise, "_chosen", lambda *_: (recipes, ()))
    monkeypatch.setattr(quantise, "StageGraph", _Graph)
    nothing = CalibrationSet(cases=(), digest="", left_out={})
    return lambda: round_bundle(Bundle.open(made.bundle), nothing, nothing, made)


def test_while_weights_are_written(
    rounded: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Graph, "size", LARGE)
    with full_after(FULL_BYTES), pytest.raises(ExportError, match=r"cannot write .*out: "):
        rounded()
    assert_only_ranges_are_left(tmp_path)


def test_while_what_lies_in_a_buffer_is_written(
    rounded: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small weights reach the disk when their files are closed: each of them fails."""
    monkeypatch.setattr(_Graph, "size", 6000)
    with full_after(5000), pytest.raises(ExportError, match=r"cannot write .*out: "):
        rounded()
    assert_only_ranges_are_left(tmp_path)


def test_while_parity_files_are_written(
    rounded: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def certify(draft: Path, *_: Any) -> Any:
        with full_after(FULL_BYTES):
            parity._save(draft / "x.npz", {"small": np.zeros(9), "large": np.zeros(LARGE)})

    monkeypatch.setattr(quantise, "certify", certify)
    with pytest.raises(ExportError, match=r"cannot write .*out: "):
        rounded()
    assert_only_ranges_are_left(tmp_path)


def assert_only_ranges_are_left(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["out.ranges.npz", "source"]
    assert Ranges.read(folder / "out.ranges.npz").done == ("T2A/0",)


def test_ranges_that_find_no_room_leave_those_that_were_written(tmp_path: Path) -> None:
    path = tmp_path / "ranges.npz"

    def observed() -> None:
        with saving(path) as save:
            save(ranges(("T2A/0",)))
            save(ranges(("T2A/0", "T2A/1"), rows=LARGE // 50))

    with full_after(FULL_BYTES), pytest.raises(RequestError, match=r"cannot write .*ranges\.npz: "):
        observed()
    assert Ranges.read(path).done == ("T2A/0",)
    assert [one.name for one in tmp_path.iterdir()] == ["ranges.npz"]
