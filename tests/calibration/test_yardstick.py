"""How far a rounded model may end from the exact one."""

from __future__ import annotations

import numpy as np
import pytest

from omni_rt.calibration.trajectories import Trajectory, compared
from omni_rt.calibration.yardstick import LATENT_MULTIPLE, finer_steps


def trajectory(distance: float) -> Trajectory:
    """Latents and a sound that are moved so far, always in one direction."""
    stream = np.random.RandomState(0)
    latents, latents_off = stream.standard_normal((2, 4, 6))
    sound, sound_off = stream.standard_normal((2, 2, 8000))
    return Trajectory(
        case="T2A/0",
        noise=latents.astype(np.float32),
        latents=(latents + distance * latents_off).astype(np.float32),
        sound=(sound + distance * sound_off).astype(np.float32),
        rate_hz=8000,
    )


def test_every_bound_is_met_at_the_same_distance() -> None:
    """Whatever grows with an error or with its square: at 3.5 times it all hold, at 4.6 none does.

    Between them lies what the distances of sounds are short of being linear.
    """
    exact = {"a": trajectory(0)}
    step = 0.01
    yardstick = finer_steps(exact, {"a": trajectory(step)})
    assert LATENT_MULTIPLE == 4
    for times, holds in ((3.5, True), (4.6, False)):
        found = compared({"a": trajectory(times * step)}, exact)
        for name, value in found.items():
            assert (value <= yardstick.bounds[name]) == holds, name


def test_origins_name_the_multiple_and_the_measurement() -> None:
    exact = {"a": trajectory(0)}
    yardstick = finer_steps(exact, {"a": trajectory(0.1)})
    assert yardstick.origins["latents"].startswith("4 times what 4 times as many Euler steps")
    assert yardstick.origins["log_mel_distance"].startswith("16 times what")
    latents = compared(exact, {"a": trajectory(0.1)})["latents"]
    assert yardstick.bounds["latents"] == pytest.approx(4 * latents)
