"""The sampling loop in Python, a row at a time, on several cases: the same bits as the C++ loop."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from omni_rt.calibration.fields import Field
from omni_rt.encode import Floats
from omni_rt.plans import Row
from omni_rt.sampling import DivergedError


class Replay:
    """x [K, C, L] of K cases, and the ring of their last velocities, newest first.

    For rows with p = 0, q = 1 and c = 0. In fp32, terms added in the order of csrc/core/step.cpp.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = fields
        self.x: Floats = np.stack([field.noise for field in fields])
        self.ring: list[Floats] = []

    def branch(self) -> Replay:
        """A replay that goes on from here, whatever becomes of this one."""
        other = copy.copy(self)
        other.ring = list(self.ring)
        return other

    def evaluate(self, t: float) -> None:
        """Push the velocities at t. Raises DivergedError if one is not finite."""
        pairs = zip(self._fields, self.x, strict=True)
        self.ring = [np.stack([field.velocity(x, t) for field, x in pairs]), *self.ring[:2]]

    def advance(self, row: Row) -> None:
        """Put x where the row says. Raises DivergedError if that is not finite."""
        assert (row.p, row.q, row.c) == (0.0, 1.0, 0.0)
        x = np.float32(row.a) * self.x
        for weight, h in zip(row.b, self.ring, strict=False):
            x = x + np.float32(weight) * h
        if not np.isfinite(x).all():
            raise DivergedError(f"the latents are no longer finite after t = {row.t:.3g}")
        self.x = x
