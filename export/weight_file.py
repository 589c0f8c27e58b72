"""External data of graphs: weights written one after another, equal ones once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_PAGE_BYTES, _SMALL_ALIGNMENT_BYTES = 4096, 64
_MAPPED_FROM_BYTES = 16 * _PAGE_BYTES  # aligning smaller ones would waste more than 3 % on average


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPlace:
    """Where in a data file a weight lies."""

    offset: int
    length: int


class WeightFile:
    """An external-data file written front to back; equal contents are stored once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._places: dict[bytes, WeightPlace] = {}

    def add(self, value: Tensor) -> WeightPlace:
        """Append the bytes of a contiguous tensor, page-aligned where worth mapping."""
        data = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        digest = hashlib.blake2b(data, digest_size=32).digest()
        if digest not in self._places:
            alignment = _PAGE_BYTES if len(data) >= _MAPPED_FROM_BYTES else _SMALL_ALIGNMENT_BYTES
            offset = -(-self._file.tell() // alignment) * alignment
            self._file.write(b"\0" * (offset - self._file.tell()))
            self._file.write(data)
            self._places[digest] = WeightPlace(offset=offset, length=len(data))
        return self._places[digest]

    def close(self) -> None:
        self._file.close()
