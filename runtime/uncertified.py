"""What is said of a bundle that runs although its parity is not proved."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from omni_rt.bundle import Bundle
from omni_rt.engines.registry import LoadEngine, resolved
from omni_rt.errors import BundleError, UncertifiedWarning


def doubt(bundle: Bundle, engine: str | LoadEngine) -> str | None:
    """Why `Session` would refuse a bundle, in one sentence; None if it would not."""
    try:
        bundle.require_certificate()
        if isinstance(engine, str):
            bundle.require_on_device(resolved(engine))
    except BundleError as error:
        why = str(error).partition(";")[0]
        return f"{bundle.directory} runs although its parity is not proved: {why}"
    return None


def warn_if_uncertified(bundle: Bundle, engine: str | LoadEngine) -> None:
    """Emit UncertifiedWarning for a bundle that `Session` would refuse."""
    found = doubt(bundle, engine)
    if found is not None:
        warnings.warn(UncertifiedWarning(found), stacklevel=3)  # where the session is made


@contextmanager
def unsaid() -> Iterator[None]:
    """No UncertifiedWarning within: for what measures bundles, certified or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncertifiedWarning)
        yield
