"""How far plans end from an exact trajectory, at equal noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omni_rt.calibration.fields import Field
from omni_rt.encode import Floats
from omni_rt.metrics import rel_l2
from omni_rt.plans import Plan
from omni_rt.sampling import DivergedError


def exact_latents(fields: Sequence[Field], reference: Plan) -> list[Floats]:
    """Latents [C, L] of each case by a plan of many steps. Raises DivergedError."""
    return [field.latents(reference) for field in fields]


def plan_error(fields: Sequence[Field], exact: Sequence[Floats], plan: Plan) -> float | None:
    """Relative L2 of the latents, mean over the cases; None if any of them is not finite."""
    try:
        errors = [rel_l2(f.latents(plan), e) for f, e in zip(fields, exact, strict=True)]
    except DivergedError:
        return None
    mean = float(np.mean(errors))
    return mean if np.isfinite(mean) else None
