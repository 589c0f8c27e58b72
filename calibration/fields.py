"""The guided velocity of a bundle's own engines for cases of every task: what is integrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from omni_rt.bundle import Bundle
from omni_rt.calibration.case import Case
from omni_rt.calibration.trajectories import conditioning_of
from omni_rt.encode import Encoder, Floats, Prepared
from omni_rt.engine_pool import EnginePool
from omni_rt.engines import Engine
from omni_rt.options import Sampling
from omni_rt.plans import Plan, Row
from omni_rt.sampling import Noise, run_plan
from omni_rt.senses import Senses
from omni_rt.session import Session
from omni_rt.thinker import Thinker


class Field(Protocol):
    """dx/dt of one case, from its noise at t = 1 to its latents at t = 0."""

    @property
    def noise(self) -> Floats:
        """Where it starts: [C, L]."""
        ...

    def velocity(self, x: Floats, t: float) -> Floats:
        """The velocity [C, L] at x [C, L]. Raises DivergedError if it is not finite."""
        ...

    def latents(self, plan: Plan) -> Floats:
        """Where a plan without fresh noise leads: [C, L]. Raises DivergedError likewise."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GuidedField:
    """A case through the sampling loop of the runtime, at one guidance scale."""

    step: Engine
    prepared: Prepared
    noise: Floats
    cfg_scale: float

    def velocity(self, x: Floats, t: float) -> Floats:
        """One row that takes v and leaves nothing of x: the branches are mixed as ever."""
        row = Row(t=t, a=0.0, b=(1.0,))
        return self._run(Plan(name="velocity", rows=(row,), grid=(t, 0.0)), x)

    def latents(self, plan: Plan) -> Floats:
        return self._run(plan, self.noise)

    def _run(self, plan: Plan, start: Floats) -> Floats:
        how = Sampling(plan=plan, cfg_scale=self.cfg_scale)
        none = np.zeros((0, 1, *start.shape), np.float32)
        latents, _ = run_plan(self.step, how, [self.prepared], start=start[None], renoise=none)
        return latents[0]


class CaseFields:
    """Cases made ready once: their fields at any guidance. Holds the engine of `dit_step` alone."""

    def __init__(self, session: Session, pool: EnginePool, cases: Sequence[Case]) -> None:
        """`session` encodes what is asked for, `pool` prepares and steps; both of one bundle."""
        conditionings = [conditioning_of(session, case) for case in cases]
        encoder = _encoder(session.bundle, pool)
        self._prepared = [encoder.prepare(c, with_negative=False) for c in conditionings]
        dims = session.bundle.manifest.dims
        shape = (dims.latent_channels, dims.latent_frames)
        self._noise = [Noise(case.seed, shape).initial for case in cases]
        self._pool = pool

    def at(self, cfg_scale: float) -> list[GuidedField]:
        """The fields, in the order of the cases."""
        step = self._pool.get("dit_step")
        return [
            GuidedField(step=step, prepared=prepared, noise=noise, cfg_scale=cfg_scale)
            for prepared, noise in zip(self._prepared, self._noise, strict=True)
        ]


def _encoder(bundle: Bundle, pool: EnginePool) -> Encoder:
    senses = Senses(bundle, pool)
    return Encoder(bundle, pool, senses, Thinker(bundle, pool, senses.cache))
