"""Cases of a calibration set through a session: latents and sound at stated noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omni_rt.audio import Audio
from omni_rt.bundle import Bundle
from omni_rt.calibration.inputs import Case
from omni_rt.encode import Conditioning, Floats
from omni_rt.errors import EngineError, ExportError
from omni_rt.plan_choice import PlanChoice
from omni_rt.preprocess.waveform import fitted, mono, read_clip
from omni_rt.sampling import Noise
from omni_rt.session import Session

ANSWER_TOKENS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a model's trajectories are sampled: guided Euler steps, or as a student was taught."""

    cfg_scale: float
    own_plan: str | None  # of a student, which follows no other

    @classmethod
    def of(cls, bundle: Bundle, cfg_scale: float | None) -> Course:
        """None: the usual guidance. Raises RequestError for a student's that is not 1."""
        choice = PlanChoice(bundle)
        guidance = choice.guidance(cfg_scale)
        own = next(iter(bundle.student_plans), None)
        if own is not None:
            choice.plan(own, cfg_scale=guidance)
        return cls(cfg_scale=guidance, own_plan=own)

    def plan(self, steps: int) -> str:
        """The plan of so many steps; a student's own, which has as many as it has."""
        return self.own_plan or f"euler-{steps}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectory:
    """Where a case's noise [C, L] went: latents [C, L], and the sound [2, samples] of them."""

    case: str
    noise: Floats
    latents: Floats
    sound: Floats
    rate_hz: int

    @property
    def audio(self) -> Audio:
        """The sound at full peak, as a user hears it."""
        peak = max(float(np.abs(self.sound).max()), 1e-9)
        return Audio(self.sound / np.float32(peak), self.rate_hz)


def run_case(session: Session, case: Case, *, plan: str, cfg_scale: float) -> Trajectory | None:
    """A case from request to sound; None for a question, which is answered.

    Raises ExportError naming the case if an engine breaks down on it.
    """
    try:
        if case.request is None:
            _answer(session, case)
            return None
        conditioning = conditioning_of(session, case)
        dims = session.bundle.manifest.dims
        noise = Noise(case.seed, (dims.latent_channels, dims.latent_frames)).initial
        latents = session.sample(conditioning, noise=noise[None], plan=plan, cfg_scale=cfg_scale)
        sound = session.decode(latents)
    except EngineError as error:
        raise ExportError(f"{case.name}: {error}") from error
    return Trajectory(
        case=case.name,
        noise=noise,
        latents=latents[0],
        sound=sound[0],
        rate_hz=session.sample_rate_hz,
    )


def _answer(session: Session, case: Case) -> None:
    assert case.question is not None
    session.understand(
        case.question, audio=case.audio, video=case.video, max_new_tokens=ANSWER_TOKENS
    )


def conditioning_of(session: Session, case: Case) -> Conditioning:
    """A case's inputs of the model. Without a thinker its states are random, from the seed."""
    assert case.request is not None
    if "thinker_cond" in session.bundle.manifest.graphs:
        return session.encode(case.request)
    dims = session.bundle.manifest.dims
    stream = np.random.RandomState(case.seed)
    states = stream.standard_normal((stream.randint(8, 64), dims.hidden_width))
    clip, waveform = case.request.clip(), None
    if clip is not None:
        one = mono(read_clip(clip, what="clip"), rate_hz=dims.sample_rate_hz)
        waveform = fitted(one, dims.window_samples)
    return Conditioning(hidden=states.astype(np.float32), waveform=waveform)
