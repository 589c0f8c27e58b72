"""Kernels that TensorRT-RTX compiled on this machine, kept for the next start.

They are executable code like plans, so the file is signed with this user's key; one that is
truncated, changed or of another GPU or driver is made anew. TensorRT compiles its kernels at build
time and has no such cache.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from omni_rt.engines.engine_key import is_signed, own_key, signature
from omni_rt.errors import EngineError

_WHAT = {"kind": "runtime cache"}
_SIGNATURE_BYTES = 64  # hexadecimal digits before the cache itself


def cache_folder() -> Path:
    """Where kernels are kept: $XDG_CACHE_HOME/omni_rt, or ~/.cache/omni_rt."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "omni_rt"


class JitCache:
    """How contexts of an engine are made, with the kernels that were compiled before."""

    def __init__(self, engine: Any, config: Any, cache: Any, path: Path) -> None:
        self._engine, self._config, self._cache, self._path = engine, config, cache, path
        self._kept = b""  # digest of what the file holds

    @classmethod
    def of(cls, engine: Any, plan: bytes) -> JitCache:
        """The cache of a plan's kernels, with what an earlier start kept."""
        path = cache_folder() / f"{hashlib.sha256(plan).hexdigest()[:32]}.kernels"
        config: Any = None
        if hasattr(engine, "create_runtime_config"):  # new versions of TensorRT have it too
            config = engine.create_runtime_config()
        if not hasattr(config, "create_runtime_cache"):  # TensorRT-RTX alone compiles here
            return cls(engine, None, None, path)
        found = cls(engine, config, config.create_runtime_cache(), path)
        found._restore()
        config.set_runtime_cache(found._cache)
        return found

    def _restore(self) -> None:
        """Take what an earlier start kept, if this library can use it."""
        kept = _read(self._path)
        if kept is not None and self._cache.deserialize(kept):  # else it was made elsewhere
            self._kept = hashlib.sha256(kept).digest()

    def new_context(self, library: Any, *, eager: bool) -> Any:
        """An execution context whose memory is that of its profile alone; None if there is none.

        `eager` compiles kernels for its exact sizes before the first run, which capturing needs.
        """
        on_change = library.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        if self._config is None:
            return self._engine.create_execution_context(on_change)
        kinds = library.DynamicShapesKernelSpecializationStrategy
        self._config.set_execution_context_allocation_strategy(on_change)
        self._config.dynamic_shapes_kernel_specialization_strategy = (
            kinds.EAGER if eager else kinds.NONE
        )
        return self._engine.create_execution_context(self._config)

    def keep(self) -> None:
        """Write the kernels compiled so far, if there are others than the file has.

        A folder that cannot be written costs time only.
        """
        if self._cache is None:
            return
        data = bytes(self._cache.serialize())
        digest = hashlib.sha256(data).digest()
        if digest == self._kept:
            return
        with suppress(OSError, EngineError):
            signed = signature(own_key(), data, **_WHAT).encode() + data
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            draft.write_bytes(signed)
            draft.replace(self._path)
            self._kept = digest


def _read(path: Path) -> bytes | None:
    """What was kept, if it is this user's and whole."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    claimed, data = stored[:_SIGNATURE_BYTES], stored[_SIGNATURE_BYTES:]
    return data if is_signed(claimed.decode("ascii", "replace"), data, **_WHAT) else None
