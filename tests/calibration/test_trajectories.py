"""Where cases end, and how far apart."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from omni_rt.calibration.trajectories import Trajectory, compared, followed
from omni_rt.encode import Conditioning, Floats
from omni_rt.errors import EngineError, ExportError
from omni_rt.sampling import Noise
from tests.calibration.sets import case_named
from tests.runtime.tiny_bundle import DIMS

SHAPE = (DIMS.latent_channels, DIMS.latent_frames)
CASE = case_named("T2A/0")
GIVEN = Conditioning(hidden=np.zeros((1, 8), np.float32))


def made(seed: int, *, gain: float = 1.0) -> Trajectory:
    stream = np.random.RandomState(seed)
    latents, sound = stream.standard_normal((4, 6)), stream.standard_normal((2, 4000))
    return Trajectory(
        case=f"T2A/{seed}",
        noise=latents.astype(np.float32),
        latents=(gain * latents).astype(np.float32),
        sound=(gain * sound).astype(np.float32),
        rate_hz=8000,
    )


def test_distances_are_means_over_cases() -> None:
    here = {"a": made(0), "b": made(1)}
    same = compared(here, here)
    assert same["latents"] == same["log_spectral_distance_db"] == same["multi_resolution_stft"] == 0
    assert same["log_mel_distance"] == pytest.approx(0, abs=1e-9)
    louder = compared({"a": made(0), "b": made(1, gain=1.5)}, here)
    assert louder["latents"] == pytest.approx(0.25)
    assert louder["log_mel_distance"] == pytest.approx(0, abs=1e-6)
    assert compared({"a": made(2), "b": made(1)}, here)["log_mel_distance"] > 0.1


class Sampler:
    """A session whose latents are the noise of the seed, and whose sound is `sound`."""

    sample_rate_hz = DIMS.sample_rate_hz
    bundle: Any = SimpleNamespace(manifest=SimpleNamespace(dims=DIMS))

    def __init__(self, sound: float = 0.5) -> None:
        self._sound = sound

    def sample(self, _: Conditioning, *, seed: int, plan: str, cfg_scale: float) -> Floats:
        if plan == "euler-1":
            raise EngineError("out of order")
        assert cfg_scale == 3
        return Noise(seed, SHAPE).initial[None]

    def decode(self, latents: Floats) -> Floats:
        return np.full((len(latents), 2, DIMS.clip_samples), self._sound, np.float32)


def end(session: Any, *, plan: str = "euler-2", seed_offset: int = 0) -> Trajectory:
    return followed(session, CASE, GIVEN, plan=plan, cfg_scale=3, seed_offset=seed_offset)


def test_a_trajectory_starts_at_the_noise_of_the_cases_seed_and_another_at_other_noise() -> None:
    own, other = end(Sampler()), end(Sampler(), seed_offset=2**32 - CASE.seed + 5)
    assert np.array_equal(own.noise, Noise(CASE.seed, SHAPE).initial)
    assert np.array_equal(own.latents, own.noise)
    assert np.array_equal(other.noise, Noise(5, SHAPE).initial)
    assert np.array_equal(other.latents, other.noise)
    assert (own.case, own.sound.shape, own.rate_hz) == ("T2A/0", (2, 600), 1000)


def test_what_breaks_down_is_named() -> None:
    with pytest.raises(ExportError, match="T2A/0: euler-1: out of order"):
        end(Sampler(), plan="euler-1")
    with pytest.raises(ExportError, match=r"T2A/0: euler-2: .* not finite"):
        end(Sampler(sound=float("nan")))
