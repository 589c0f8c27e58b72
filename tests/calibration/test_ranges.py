"""The file of observed ranges: whole or an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omni_rt.calibration import ranges as ranging
from omni_rt.calibration.ranges import LayerRange, Ranges, saving
from omni_rt.errors import ExportError


def layer(width: int, rows: int, *, seed: int) -> LayerRange:
    stream = np.random.RandomState(seed)
    return LayerRange(
        channel_max=stream.rand(width).astype(np.float32),
        low=-stream.rand(width).astype(np.float32),
        high=stream.rand(width).astype(np.float32),
        rows=stream.standard_normal((rows, width)).astype(np.float32),
        output_max=float(np.float32(stream.rand())),
    )


RANGES = Ranges(
    layers={
        "dit_step": {
            "model.layers.0.ff.ff.0.proj.weight": layer(5, 3, seed=0),
            "model.layers.10.ff.ff.2.weight": layer(7, 0, seed=1),
        },
        "context": {"a.weight": layer(1, 2, seed=2)},
    },
    inputs="digest",
    graphs={"dit_step": "one", "context": "two"},
    done=("T2A/0", "Style Transfer/1"),
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ranges.npz"
    RANGES.write(path)
    found = Ranges.read(path)
    assert (found.inputs, found.graphs, found.done) == (RANGES.inputs, RANGES.graphs, RANGES.done)
    assert found.layers.keys() == RANGES.layers.keys()
    for stage, layers in RANGES.layers.items():
        assert found.layers[stage].keys() == layers.keys()
        for name, own in layers.items():
            read = found.layers[stage][name]
            for part in ("channel_max", "low", "high"):
                np.testing.assert_array_equal(getattr(read, part), getattr(own, part))
            np.testing.assert_array_equal(read.rows, own.rows)
            assert read.output_max == own.output_max
            assert read.rows.dtype == np.float32


def test_writing_again_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "ranges.npz"
    for done in ((), ("T2A/0",)):
        Ranges(layers={}, inputs="i", graphs={}, done=done).write(path)
    assert Ranges.read(path).done == ("T2A/0",)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ranges.npz"
    RANGES.write(path)

    def broken(file: object, **_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(Exception, match="No space left"):
        Ranges(layers={}, inputs="other", graphs={}, done=()).write(path)
    monkeypatch.undo()
    assert Ranges.read(path).inputs == "digest"
    assert list(tmp_path.iterdir()) == [path]


def damaged(path: Path, how: str) -> None:
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "empty": b"",
            "text": b"not an archive",
            "half": whole[:middle],
            "first page": whole[:100],
            "without its end": whole[:-30],
            "flipped": whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :],
        }[how]
    )


@pytest.mark.parametrize(
    "how", ["empty", "text", "half", "first page", "without its end", "flipped"]
)
def test_a_damaged_file_is_an_error_of_ours(tmp_path: Path, how: str) -> None:
    path = tmp_path / "ranges.npz"
    RANGES.write(path)
    damaged(path, how)
    with pytest.raises(ExportError, match=r"ranges\.npz holds no observed ranges"):
        Ranges.read(path)


def test_a_file_cut_anywhere_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "ranges.npz"
    RANGES.write(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ExportError):
            Ranges.read(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros(3)},  # another archive
        {"facts": np.frombuffer(b"[1, 2]", np.uint8)},
        {"facts": np.frombuffer(b"3", np.uint8)},
        {"facts": np.frombuffer(b'{"inputs": "i"}', np.uint8)},
        {"facts": np.frombuffer(b"{", np.uint8)},
    ],
)
def test_another_archive_is_an_error_of_ours(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(ExportError):
        Ranges.read(path)


def test_a_layer_without_its_rows_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "ranges.npz"
    RANGES.write(path)
    with np.load(path) as arrays:
        rest = {name: value for name, value in arrays.items() if not name.endswith("/rows")}
    np.savez(path, **rest)  # type: ignore[arg-type]
    with pytest.raises(ExportError):
        Ranges.read(path)


def test_one_array_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ExportError):
        Ranges.read(path)


def test_a_file_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        Ranges.read(tmp_path / "none.npz")
    with pytest.raises(ExportError):
        Ranges.read(tmp_path)


def test_writing_takes_a_twentieth_of_the_time_and_the_last_ranges_are_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case takes 10 s, a writing 5: so one in ten is written, and the last on the way out."""
    now = 0.0
    written: list[str] = []

    def write(ranges: Ranges, _: Path) -> None:
        nonlocal now
        now += 5
        written.append(ranges.done[-1])

    def interrupted() -> None:
        nonlocal now
        with saving(tmp_path / "ranges.npz") as save:
            for case in range(28):
                now += 10
                save(Ranges(layers={}, inputs="", graphs={}, done=(str(case),)))
            raise KeyboardInterrupt

    monkeypatch.setattr(ranging.time, "monotonic", lambda: now)
    monkeypatch.setattr(Ranges, "write", write)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert written == ["0", "10", "20", "27"]


def test_a_writing_that_is_interrupted_is_done_again_on_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "ranges.npz", Ranges.write

    def interrupted(ranges: Ranges, path: Path) -> None:
        monkeypatch.setattr(Ranges, "write", write)
        raise KeyboardInterrupt

    monkeypatch.setattr(Ranges, "write", interrupted)
    with pytest.raises(KeyboardInterrupt), saving(path) as save:
        save(RANGES)
    assert Ranges.read(path).done == RANGES.done
