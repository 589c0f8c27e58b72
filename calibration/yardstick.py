"""How far a rounded model's trajectories may end from the exact ones, and where that comes from.

A teacher's bound is a multiple of what its own steps leave undone. A student has no finer steps:
its plan is what it was taught. What it has is a bound on every one of its few velocities, and these
add up to where the latents end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from omni_rt.calibration.recording import Recorded
from omni_rt.calibration.trajectories import Trajectory, compared
from omni_rt.encode import Floats
from omni_rt.errors import ExportError
from omni_rt.session import Session
from omni_rt.targets import PRECISIONS, Target, rounded_bound

FINER = 4  # times as many Euler steps: what the model's own steps leave undone

# A rounded model may be so many times farther from the unrounded one than 100 Euler steps are from
# 400. A choice: the packaged miniature, in 8 bits and 16, is at 2.4 in latents.
LATENT_MULTIPLE = 4.0
_SQUARED = ("log_mel_distance",)  # 1 − cosine: half the square of what the others measure once


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """Bounds of distances in latents and sound, and their origins, by the distance's name."""

    bounds: Mapping[str, float]
    origins: Mapping[str, str]


def finer_steps(exact: Mapping[str, Trajectory], finer: Mapping[str, Trajectory]) -> Yardstick:
    """A teacher's: `finer` are its trajectories in FINER times as many steps."""
    found = compared(exact, finer)
    multiples = {
        name: LATENT_MULTIPLE**2 if name in _SQUARED else LATENT_MULTIPLE for name in found
    }
    return Yardstick(
        bounds={name: multiples[name] * value for name, value in found.items()},
        origins={
            name: (
                f"{multiples[name]:g} times what {FINER} times as many Euler steps change in the "
                f"unrounded model on the same cases ({value:.3g})"
            )
            for name, value in found.items()
        },
    )


def summed_errors(
    session: Session,
    exact: Mapping[str, Trajectory],
    calls: Sequence[Recorded],
    *,
    target: Target,
) -> Yardstick:
    """A student's: every velocity off by its bound, all in one direction.

    Time runs from 1 to 0, so errors of ε·|v| add up to ε times the mean of |v| on the way; how a
    step carries on the error of those before is left out, as is what several directions cancel.
    Sounds are held to what latents that are moved so far, in a random direction, sound like.
    calls: of the exact step. Raises ExportError if the target does not round the step.
    """
    dims = session.bundle.manifest.dims
    format = target.formats.get("dit_step")
    found = None if format is None else rounded_bound(PRECISIONS[format], "dit_step", dims)
    if found is None:
        raise ExportError(
            f"target {target.name} rounds nothing of dit_step: a student is held to the errors of "
            "its step"
        )
    error, _ = found
    moved = {
        name: _moved(session, one, error * mean_speed(calls, name), seed=i)
        for i, (name, one) in enumerate(exact.items())
    }
    bounds = compared(moved, exact)
    origin = (
        f"every velocity of the student off by the bound of its step ({error:.3g}), all in one "
        "direction"
    )
    sound = f"{origin}: what the unrounded model's latents sound like, moved so far at random"
    return Yardstick(
        bounds=bounds, origins={name: origin if name == "latents" else sound for name in bounds}
    )


def mean_speed(calls: Sequence[Recorded], case: str) -> float:
    """The mean of |v| over a case's evaluations that were kept, which are evenly spread."""
    speeds = [np.linalg.norm(call.arrays["v"]) for call in calls if call.case == case]
    return float(np.mean(speeds))


def _moved(session: Session, exact: Trajectory, distance: float, *, seed: int) -> Trajectory:
    """The trajectory as if it ended `distance` (L2 of the latents) from where it does."""
    direction = np.random.RandomState(seed).standard_normal(exact.latents.shape)
    step = (distance / np.linalg.norm(direction) * direction).astype(np.float32)
    latents: Floats = exact.latents + step
    return replace(exact, latents=latents, sound=session.decode(latents[None])[0])
