from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from omni_rt import ExportError
from omni_rt.export.pack import new_directory
from omni_rt.manifest import MANIFEST


def test_the_target_appears_whole_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with new_directory(target, needed_bytes=0, overwrite=False) as draft:
        (draft / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [ExportError("no"), KeyboardInterrupt(), OSError(28, "full")])
def test_an_interruption_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    wanted = ExportError if isinstance(error, OSError) else type(error)

    def interrupted() -> None:
        target = tmp_path / "bundle"
        with new_directory(target, needed_bytes=0, overwrite=False) as draft:
            (draft / "half").write_text("x")
            raise error

    with pytest.raises(wanted):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_keeps_the_bundle_that_was_there(tmp_path: Path) -> None:
    old = tmp_path / "bundle"
    old.mkdir()
    (old / MANIFEST).write_text("{}")
    with (
        pytest.raises(KeyboardInterrupt),
        new_directory(old, needed_bytes=0, overwrite=True),
    ):
        raise KeyboardInterrupt
    assert (old / MANIFEST).read_text() == "{}"


def test_what_somebody_puts_there_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "bundle"

    def race() -> None:
        with new_directory(target, needed_bytes=0, overwrite=False):
            target.mkdir()
            (target / "precious").write_text("x")

    with pytest.raises(ExportError, match="there already"):
        race()
    assert (target / "precious").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    for content in ("old", "new"):
        with new_directory(target, needed_bytes=0, overwrite=True) as draft:
            (draft / MANIFEST).write_text(content)
    assert (target / MANIFEST).read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    (tmp_path / "link").symlink_to(target)
    with (
        pytest.raises(ExportError, match="is a link"),
        new_directory(tmp_path / "link", needed_bytes=0, overwrite=True),
    ):
        pass


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    needed = shutil.disk_usage(tmp_path).free + (1 << 40)
    with (
        pytest.raises(ExportError, match=r"needs .* GB"),
        new_directory(tmp_path / "b", needed_bytes=needed, overwrite=False),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_only_bundles_are_overwritten(tmp_path: Path) -> None:
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "one.jpg").write_text("x")
    for overwrite, message in ((False, "there already"), (True, "holds no manifest.json")):
        with (
            pytest.raises(ExportError, match=message),
            new_directory(precious, needed_bytes=0, overwrite=overwrite),
        ):
            pass
    assert (precious / "one.jpg").exists()
    with (
        pytest.raises(ExportError, match="no folder"),
        new_directory(tmp_path / "a" / "b", needed_bytes=0, overwrite=False),
    ):
        pass
