"""Velocities made up for their laws, and paths through them that are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from omni_rt.calibration.fine_path import FinePath
from omni_rt.encode import Floats
from omni_rt.plans import Plan
from omni_rt.sampling import DivergedError
from tests.runtime.numpy_executor import execute

SHAPE = (4, 6)  # C, L
SHAPE_OF_MIXTURE = (8, 8)
_SIGMA = 0.7

Velocity = Callable[[np.ndarray, float], np.ndarray]  # x [C, L] and t → v [C, L]


@dataclass(frozen=True, kw_only=True, eq=False)
class MadeUp:
    """One case; in fp32, as engines are."""

    noise: Floats
    function: Velocity

    def velocity(self, x: Floats, t: float) -> Floats:
        v = np.asarray(self.function(x, t), np.float32)
        if not np.isfinite(v).all():
            raise DivergedError("made up to diverge")
        return v

    def latents(self, plan: Plan) -> Floats:
        def one(x: Floats, t: np.float32) -> Floats:
            return self.velocity(x[0], float(t))[None]

        with np.errstate(over="ignore", invalid="ignore"):
            return execute(plan.table(), self.noise[None], one, guided=False)[0]


def noise_of(seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(SHAPE, dtype=np.float32)


def cases(function: Velocity, *, count: int = 4, first: int = 0) -> list[MadeUp]:
    return [MadeUp(noise=noise_of(first + i), function=function) for i in range(count)]


def known_path(
    case: MadeUp, states: Callable[[np.ndarray, float], np.ndarray], *, steps: int = 64
) -> FinePath:
    """The path whose state at t is `states(noise, t)`, exactly."""
    times = np.linspace(1, 0, steps + 1)
    exact = np.stack([states(case.noise.astype(np.float64), t) for t in times]).astype(np.float32)
    velocities = [case.velocity(x, t) for x, t in zip(exact[:-1], times[:-1], strict=True)]
    return FinePath(times=times, states=exact, velocities=np.stack(velocities))


# v = αt + β with fields of numbers α and β that have nothing to do with each other
ALPHA, BETA = (noise_of(seed).astype(np.float64) for seed in (100, 101))


def linear(x: np.ndarray, t: float) -> np.ndarray:
    return ALPHA * t + BETA


def linear_states(noise: np.ndarray, t: float) -> np.ndarray:
    return noise + ALPHA * (t**2 - 1) / 2 + BETA * (t - 1)


# Pairs of numbers that turn: x(t) = cos(ω(1−t))·x₁ − sin(ω(1−t))·Jx₁, with J a quarter turn
OMEGA = 2.5


def quarter_turn(x: np.ndarray) -> np.ndarray:
    return np.concatenate([-x[2:], x[:2]])


def turning(x: np.ndarray, t: float) -> np.ndarray:
    return OMEGA * quarter_turn(x)


def turning_states(noise: np.ndarray, t: float) -> np.ndarray:
    angle = OMEGA * (1 - t)
    return np.cos(angle) * noise - np.sin(angle) * quarter_turn(noise)


def bending(seed: int) -> Velocity:
    """A nonlinear velocity that draws x to ±1 and mixes its channels, faster towards the data."""
    mix = np.random.default_rng(1000 + seed).standard_normal((SHAPE[0], SHAPE[0])) / 2

    def function(x: np.ndarray, t: float) -> np.ndarray:
        return (1.5 - t) * (x - np.tanh(3 * (mix @ x)))

    return function


def shared_grid(steps: int) -> Sequence[float]:
    return np.linspace(1, 0, steps + 1).tolist()


def guided_mixture(seed: int, *, guidance: float, count: int, first: int) -> list[MadeUp]:
    """Cases of a rectified flow to 24 Gaussians (σ .7) in 64 dimensions, whose velocity is known.

    v = (x − E[x0 | x])/t, with x = (1−t)·x0 + t·noise. The other branch knows all Gaussians; the
    conditional one that x0 is of four of them, which differ from case to case.
    """
    means = np.random.default_rng(seed).standard_normal((24, *SHAPE_OF_MIXTURE))

    def expected(x: np.ndarray, t: float, own: np.ndarray) -> np.ndarray:
        variance = ((1 - t) * _SIGMA) ** 2 + t**2
        left = x - (1 - t) * own
        logits = -np.square(left).sum((1, 2)) / (2 * variance)
        share = np.exp(logits - logits.max())
        x0 = own + (1 - t) * _SIGMA**2 / variance * left
        return np.einsum("k,kcl->cl", share / share.sum(), x0)

    def case(number: int) -> MadeUp:
        stream = np.random.default_rng([seed, number])
        noise = stream.standard_normal(SHAPE_OF_MIXTURE, dtype=np.float32)
        asked = means[stream.choice(len(means), 4, replace=False)]

        def function(x: np.ndarray, t: float) -> np.ndarray:
            wide = x.astype(np.float64)
            other, conditional = (wide - expected(wide, t, m) for m in (means, asked))
            return (other + guidance * (conditional - other)) / t

        return MadeUp(noise=noise, function=function)

    return [case(first + i) for i in range(count)]
