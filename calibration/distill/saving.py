"""Tensors into a file, with the errors that everything else here has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

_READABLE = 0o644  # safetensors keeps a file to its owner


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, header: Mapping[str, str] | None = None
) -> None:
    """Write a `.safetensors`. Raises OSError for what the file system says, a full disk above all.

    Whoever calls this writes a draft: what is there of it after an error is half a file.
    """
    try:
        save_file(dict(tensors), path, metadata=None if header is None else dict(header))
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(_READABLE)
