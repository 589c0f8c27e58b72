"""A few requests on any bundle, each saved: what `omni-rt demo` shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omni_rt.audio import Audio
from omni_rt.options import OnStep
from omni_rt.session import Session

Tell = Callable[[str], OnStep]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One file of the demo."""

    what: str
    path: Path
    seconds: float
    duration_s: float


def bell(*, rate_hz: int = 44_100, duration_s: float = 4.0) -> Audio:
    """A struck bell (five decaying partials), twice: something to edit."""
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    partials = [(440.0, 1.0), (880.0, 0.6), (1310.0, 0.4), (1760.0, 0.25), (2370.0, 0.2)]
    tone = sum(a * np.sin(2 * np.pi * f * t) * np.exp(-t * f / 400) for f, a in partials)
    struck_again = np.roll(tone, rate_hz * 2)
    struck_again[: rate_hz * 2] = 0
    return Audio((0.3 * (tone + struck_again))[None].astype(np.float32), rate_hz, {"demo": "bell"})


def run_demo(session: Session, folder: Path, *, seed: int, plan: str, tell: Tell) -> Iterator[Made]:
    """Make a sound, speech and an edit in `folder`; yields each as it is saved."""
    source = bell()
    source.save(folder / "source.wav")

    def speech(on_step: OnStep) -> Audio:
        return session.generate(
            "TTS", prompt="Every step counts.", seed=seed, plan=plan, on_step=on_step
        )

    def sound(on_step: OnStep) -> Audio:
        return session.generate(
            "T2A", prompt="Rain on a tin roof", seed=seed, plan=plan, on_step=on_step
        )

    def removal(on_step: OnStep) -> Audio:
        return session.edit(
            "Remove", source, desc="the bell", seed=seed, plan=plan, on_step=on_step
        )

    for name, make in (("sound", sound), ("speech", speech), ("edited", removal)):
        start = time.perf_counter()
        audio = make(tell(name))
        path = audio.save(folder / f"{name}.wav")
        yield Made(
            what=f"{audio.made['task']}",
            path=path,
            seconds=time.perf_counter() - start,
            duration_s=audio.duration_s,
        )
