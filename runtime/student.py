"""Bundles of a student: distilled to one plan, run without guidance (spec SOLVERS §3)."""

from __future__ import annotations

import numpy as np

from omni_rt.bundle import Bundle
from omni_rt.errors import RequestError
from omni_rt.options import Sampling

GUIDANCE = 7.0  # the original's default
_UNGUIDED = 1.0


def default_guidance(bundle: Bundle) -> float:
    """The guidance of a request that names none: a student has none."""
    return GUIDANCE if bundle.manifest.student is None else _UNGUIDED


def default_plan(bundle: Bundle, usual: str) -> str:
    """The plan of a command that names none: a student has its own."""
    return bundle.manifest.student or usual


def check_student(bundle: Bundle, how: Sampling) -> None:
    """Raise RequestError if the bundle is a student and this is not what it was distilled for."""
    name = bundle.manifest.student
    if name is None:
        return
    own = bundle.plan(name)
    assert own is not None  # the manifest's check
    same = how.plan.name == name and np.array_equal(how.plan.table(), own.table())
    if how.guided or not same:
        raise RequestError(
            f"this bundle is a student: it runs its own plan {name} only, at cfg_scale 1, "
            f"not {how.plan.name} at cfg_scale {how.cfg_scale:g}"
        )
