"""How to sample: checked once, the same for every segment and every request of a batch."""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_rt.errors import Cancelled, RequestError
from omni_rt.plans import Plan

MAX_DURATION_S = 600.0

OnStep = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialLatents:
    """Distribution of a clip's latents [1, C, L], and the σ at which sampling starts from it."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    sigma: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Plan, guidance and who is told."""

    plan: Plan
    cfg_scale: float = 7.0
    rescale: float = 0.0
    normalise: bool = True
    initial: InitialLatents | None = None
    on_step: OnStep | None = None
    cancel: threading.Event | None = None

    def __post_init__(self) -> None:
        checked_guidance(self.cfg_scale)
        if not self.plan.rows:
            raise RequestError(f"plan {self.plan.name!r} has no rows")
        if self.on_step is not None and not callable(self.on_step):
            raise RequestError(f"on_step must be callable, got {self.on_step!r}")
        if self.cancel is not None and not callable(getattr(self.cancel, "is_set", None)):
            raise RequestError(f"cancel must be a threading.Event, got {self.cancel!r}")
        if not (is_number(self.rescale) and 0 <= self.rescale <= 1):
            raise RequestError(f"rescale must be between 0 and 1, got {self.rescale!r}")

    @property
    def guided(self) -> bool:
        """Whether the other branch is evaluated too."""
        return self.cfg_scale != 1.0

    def progress_of(self, segment: int, segments: int) -> OnStep | None:
        """`on_step` counting the steps of all segments."""
        tell, steps = self.on_step, self.plan.evaluations
        if tell is None:
            return None
        return lambda done, _: tell(segment * steps + done, segments * steps)


def _is_finite(value: object) -> bool:
    try:
        return is_number(value) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer beyond every float
        return False


def is_number(value: object) -> bool:
    """A real number of Python or NumPy, and no bool."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def checked_guidance(cfg_scale: float) -> float:
    """A finite guidance scale. Raises RequestError."""
    if not _is_finite(cfg_scale):
        raise RequestError(f"cfg_scale must be a finite number, got {cfg_scale!r}")
    return float(cfg_scale)


def checked_seed(seed: int | None) -> int:
    """The seed, or one drawn from the system for None. Raises RequestError."""
    if seed is None:
        return secrets.randbits(31)
    whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**32:
        raise RequestError(f"seed must be an integer from 0 to 2^32 - 1, or None, got {seed!r}")
    return int(seed)


def nth_seed(seed: int, index: int) -> int:
    """The seed of the index-th segment or request: seed + index, within 32 bits."""
    return (seed + index) % 2**32


def checked_duration(duration_s: float) -> float:
    """A duration above 0 and at most ten minutes. Raises RequestError."""
    if not (is_number(duration_s) and 0 < duration_s <= MAX_DURATION_S):
        raise RequestError(
            f"duration_s must be above 0 and at most {MAX_DURATION_S:g}, got {duration_s!r}"
        )
    return float(duration_s)


def checked_strength(strength: float | None) -> float:
    """How much of an initial clip remains, in (0, 1); a half if not said. Raises RequestError."""
    if strength is None:
        return 0.5
    if not (is_number(strength) and 0 < strength < 1):
        raise RequestError(f"init_strength must lie between 0 and 1, got {strength!r}")
    return float(strength)


def raise_if_cancelled(cancel: threading.Event | None) -> None:
    """Raise Cancelled if the caller has set the event."""
    if cancel is not None and cancel.is_set():
        raise Cancelled("cancelled by the caller")
