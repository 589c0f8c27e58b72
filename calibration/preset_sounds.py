"""Requests of all tasks followed by several plans at stated noise, and how far these end apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from omni_rt.audio_metrics import log_mel_cosine
from omni_rt.calibration.case import Case
from omni_rt.calibration.trajectories import conditioning_of
from omni_rt.encode import Floats
from omni_rt.errors import EngineError, ExportError
from omni_rt.metrics import rel_l2
from omni_rt.options import nth_seed
from omni_rt.session import Session

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """Where a request's noise went: latents [C, L], and the sound [channels, samples] of them."""

    latents: Floats
    sound: Floats


class Requests:
    """Cases made ready once by a session, to be followed by any of its plans."""

    def __init__(self, session: Session, cases: Sequence[Case], progress: Progress) -> None:
        """Raises ExportError if an engine breaks down."""
        self._session, self._cases, self._progress = session, cases, progress
        progress(f"encoding {len(cases)} requests")
        try:
            self._given = [conditioning_of(session, case) for case in cases]
        except EngineError as error:
            raise ExportError(f"while requests were encoded: {error}") from error

    def followed(self, plan: str, *, cfg_scale: float, seed_offset: int = 0) -> list[Made]:
        """Every case from the noise of its seed + `seed_offset`.

        Raises ExportError naming plan and case if an engine breaks down or latents diverge.
        """
        self._progress(f"{plan} on {len(self._cases)} requests")
        made = []
        for case, given in zip(self._cases, self._given, strict=True):
            seed = nth_seed(case.seed, seed_offset)
            try:
                latents = self._session.sample(given, seed=seed, plan=plan, cfg_scale=cfg_scale)
                made.append(Made(latents=latents[0], sound=self._session.decode(latents)[0]))
            except EngineError as error:
                raise ExportError(f"{plan}, {case.name}: {error}") from error
        return made


def latent_distance(ours: Sequence[Made], theirs: Sequence[Made]) -> float:
    """Relative L2 of the latents, mean over the cases."""
    pairs = zip(ours, theirs, strict=True)
    return float(np.mean([rel_l2(own.latents, other.latents) for own, other in pairs]))


def log_mel_distance(ours: Sequence[Made], theirs: Sequence[Made], *, rate_hz: int) -> float:
    """1 − cosine of the sounds' log-mel spectrograms, mean over the cases: 0 if they are equal."""
    pairs = zip(ours, theirs, strict=True)
    cosines = [log_mel_cosine(own.sound, other.sound, rate_hz=rate_hz) for own, other in pairs]
    return 1 - float(np.mean(cosines))
