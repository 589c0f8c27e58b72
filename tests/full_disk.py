"""A disk that is full half-way: the operating system refuses what a file grows beyond a size."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_after(size_bytes: int) -> Iterator[None]:
    """Within, no file grows beyond so many bytes: writing on is an OSError, whoever writes.

    The system says "File too large" where a full disk says "No space left on device"; the rest is
    alike, what lies in buffers included.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
