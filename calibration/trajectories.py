"""Cases through a session: latents and sound at stated noise, and how far these end apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from omni_rt.audio import Audio
from omni_rt.audio_metrics import sound_difference
from omni_rt.bundle import Bundle
from omni_rt.calibration.inputs import Case
from omni_rt.encode import Conditioning, Floats
from omni_rt.errors import EngineError, ExportError
from omni_rt.metrics import rel_l2
from omni_rt.options import nth_seed
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
    if case.request is None:
        with _named(case.name):
            _answer(session, case)
        return None
    given = encoded(session, case)
    return followed(session, case, given, plan=plan, cfg_scale=cfg_scale)


def encoded(session: Session, case: Case) -> Conditioning:
    """A case's inputs of the model. Raises ExportError naming the case if an engine breaks down."""
    with _named(case.name):
        return conditioning_of(session, case)


def followed(
    session: Session,
    case: Case,
    given: Conditioning,
    *,
    plan: str,
    cfg_scale: float,
    seed_offset: int = 0,
) -> Trajectory:
    """Where a plan takes the noise of the case's seed + `seed_offset`, on inputs made before.

    Raises ExportError naming case and plan if an engine breaks down, latents diverge, or a sound is
    not finite.
    """
    dims = session.bundle.manifest.dims
    seed = nth_seed(case.seed, seed_offset)
    with _named(f"{case.name}: {plan}"):
        latents = session.sample(given, seed=seed, plan=plan, cfg_scale=cfg_scale)
        sound = session.decode(latents)
    if not np.isfinite(sound).all():
        raise ExportError(f"{case.name}: {plan}: the decoder made a sound that is not finite")
    return Trajectory(
        case=case.name,
        noise=Noise(seed, (dims.latent_channels, dims.latent_frames)).initial,
        latents=latents[0],
        sound=sound[0],
        rate_hz=session.sample_rate_hz,
    )


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say what was being made when an engine broke down."""
    try:
        yield
    except EngineError as error:
        raise ExportError(f"{what}: {error}") from error


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


def compared(ours: Mapping[str, Trajectory], theirs: Mapping[str, Trajectory]) -> dict[str, float]:
    """Means over the cases of how far latents and sounds are apart."""
    rows = [_distances(ours[name], theirs[name]) for name in theirs]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _distances(ours: Trajectory, theirs: Trajectory) -> dict[str, float]:
    heard = sound_difference(ours.audio.samples, theirs.audio.samples, rate_hz=ours.rate_hz)
    return {
        "latents": rel_l2(ours.latents, theirs.latents),
        "log_spectral_distance_db": heard.lsd_db,
        "multi_resolution_stft": heard.stft,
        "log_mel_distance": 1 - heard.log_mel_cosine,
    }
