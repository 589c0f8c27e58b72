"""What was computed from equal inputs, kept by content hash within a bound on memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MAX_BYTES = 256 << 20


def content_hash(*arrays: NDArray[np.generic]) -> bytes:
    """Digest of the types, shapes and bytes of arrays."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


class FeatureCache:
    """Least recently used features go first. Not thread-safe: its owner is."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._kept: OrderedDict[tuple[str, bytes], Floats] = OrderedDict()

    def get(self, stage: str, key: bytes, compute: Callable[[], Floats]) -> Floats:
        """The features of `key`, computed now unless they are known. They are read-only."""
        known = self._kept.get((stage, key))
        if known is not None:
            self._kept.move_to_end((stage, key))
            return known
        made = compute()
        made.flags.writeable = False
        if made.nbytes <= self._max_bytes:
            self._kept[stage, key] = made
            self._bytes += made.nbytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return made

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._bytes = 0
