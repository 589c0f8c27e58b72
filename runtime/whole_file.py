"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from omni_rt.errors import RequestError


def checked_target(path: str | Path, kinds: Mapping[str, str]) -> tuple[Path, str]:
    """The path, and what `kinds` says of its suffix.

    Raises RequestError for another suffix, and for a folder that is not there.
    """
    target = Path(path)
    kind = kinds.get(target.suffix.lower())
    if kind is None:
        raise RequestError(f"cannot write {target.name}: use one of {', '.join(kinds)}")
    if not target.parent.is_dir():
        raise RequestError(f"cannot write {target}: no folder {target.parent}")
    return target, kind


@contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """A file beside `target` to write, which takes its place at the end, or is gone after an error.

    Raises RequestError for what the file system says.
    """
    draft: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=target.suffix.lower())
        os.close(handle)
        draft = Path(name)
        yield draft
        draft.chmod(0o644)
        draft.replace(target)
    except OSError as error:
        raise RequestError(f"cannot write {target}: {error}") from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)
