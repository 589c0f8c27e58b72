"""Writing a bundle: everything into a temporary directory, renamed when it is whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from omni_rt.bundle import Bundle, sha256_of
from omni_rt.errors import ExportError
from omni_rt.manifest import MANIFEST, FileSpec


@contextmanager
def new_directory(
    target: Path, *, needed_bytes: int, overwrite: bool, holds: str = MANIFEST
) -> Iterator[Path]:
    """A directory to fill; becomes `target` at the end, or vanishes with any error or Ctrl-C.

    Raises ExportError if `target` is there already (unless `overwrite`, and then only in place of
    one that `holds` this file too), its parent is missing, or the disk has less than `needed_bytes`
    left.
    """
    check_target(target, needed_bytes, overwrite, holds=holds)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        yield draft
        draft.chmod(0o755)
        _put_in_place(draft, target, overwrite, holds)
    except OSError as error:
        raise ExportError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _put_in_place(draft: Path, target: Path, overwrite: bool, holds: str) -> None:
    """Rename, with what was there aside until the new one is in its place."""
    _check_free(target, overwrite, holds)  # somebody may have put something there meanwhile
    if not target.exists():
        draft.rename(target)
        return
    aside = draft.with_suffix(".replaced")
    target.rename(aside)
    try:
        draft.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _check_free(target: Path, overwrite: bool, holds: str) -> None:
    if target.is_symlink():
        raise ExportError(f"{target} is a link: give the directory itself")
    if target.exists():
        if not overwrite:
            raise ExportError(f"{target} is there already: remove it, or pass --overwrite")
        if not (target / holds).is_file():
            raise ExportError(f"{target} holds no {holds}: it will not be overwritten")


def check_target(
    target: Path, needed_bytes: int, overwrite: bool, *, holds: str = MANIFEST
) -> None:
    """Raise ExportError for a directory that `new_directory` would not make."""
    if not target.parent.is_dir():
        raise ExportError(f"cannot write {target}: no folder {target.parent}")
    _check_free(target, overwrite, holds)
    free = shutil.disk_usage(target.parent).free
    if free < needed_bytes:
        raise ExportError(
            f"disk: the bundle needs {needed_bytes / 1e9:.1f} GB, "
            f"{target.parent} has {free / 1e9:.1f} GB free"
        )


def copy_files(
    bundle: Bundle, draft: Path, *, keep: Callable[[str], bool] = lambda _: True
) -> None:
    """Copy what a bundle holds, but for the paths that are not to be kept."""
    held = [path for path in bundle.manifest.files if path not in bundle.manifest.left_out]
    for path in filter(keep, held):
        (draft / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path(path), draft / path)


def list_files(directory: Path) -> dict[str, FileSpec]:
    """Size and hash of every file below a directory, by POSIX path."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {
        path.relative_to(directory).as_posix(): FileSpec(
            sha256=sha256_of(path), size_bytes=path.stat().st_size
        )
        for path in paths
    }
