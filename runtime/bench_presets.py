"""One whole request for every preset: seconds of sampling, and of all from words to sound."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from omni_rt.bundle import Bundle
from omni_rt.encode import Conditioning
from omni_rt.engines.registry import AUTO
from omni_rt.plans import Plan
from omni_rt.presets import FAITHFUL, Preset, offered, passes
from omni_rt.session import Session
from omni_rt.tasks import TextToAudio
from omni_rt.timing import Timing
from omni_rt.uncertified import unsaid

Progress = Callable[[str], None]

_REQUEST = TextToAudio(prompt="rain on a tin roof, and a dog barks twice")
_WARM_UP = "euler-2"


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetTime:
    """Medians of the runs. clip_s: encoding, sampling and decoding one window."""

    bundle: str
    preset: str
    plan: str
    passes: int
    sampling_s: float
    clip_s: float

    def faster(self, faithful: PresetTime) -> tuple[float, float]:
        """How many times as fast as another: sampling, and the whole clip."""
        return faithful.sampling_s / self.sampling_s, faithful.clip_s / self.clip_s


def bench_presets(
    bundles: Sequence[Bundle],
    *,
    runs: int = 5,
    threads: int | None = None,
    engine: str = AUTO,
    progress: Progress = lambda _: None,
) -> tuple[PresetTime, ...]:
    """Every preset of a model's bundle and its students', `runs` times each, in turns.

    All bundles are loaded and warm at once, so that a machine that slows down does so for all of
    them. Raises BundleError for a bundle that cannot turn words into sound, EngineError if one
    fails.
    """
    with ExitStack() as open_sessions:
        entries: list[_Entry] = []
        for bundle in bundles:
            with unsaid():
                session = Session(
                    bundle.directory, threads=threads, engine=engine, allow_uncertified=True
                )
            open_sessions.enter_context(session)
            progress(f"{bundle.manifest.name}: warming up")
            _timed(session, session.plan(None if bundle.student_plans else _WARM_UP))
            entries += [_Entry(session=session, preset=preset) for preset in offered(bundle)]
        for run in range(runs):
            progress(f"requests by every preset, {run + 1} of {runs}")
            for entry in entries:
                entry.seconds.append(_timed(entry.session, entry.plan))
        return tuple(entry.told() for entry in entries)


@dataclass(slots=True, kw_only=True)
class _Entry:
    """A preset of an open bundle, and the seconds of its requests so far."""

    session: Session
    preset: Preset
    seconds: list[tuple[float, float]] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        return self.session.plan(self.preset.name)

    def told(self) -> PresetTime:
        sampling, clip = map(Timing.of, zip(*self.seconds, strict=True))
        return PresetTime(
            bundle=self.session.bundle.manifest.name,
            preset=self.preset.name,
            plan=self.preset.plan,
            passes=passes(self.plan, cfg_scale=self.session.guidance()),
            sampling_s=sampling.p50_s,
            clip_s=clip.p50_s,
        )


def _timed(session: Session, plan: Plan) -> tuple[float, float]:
    """Seconds of sampling and of the whole clip."""
    begun = time.perf_counter()
    conditioning: Conditioning = session.encode(_REQUEST)
    encoded = time.perf_counter()
    latents = session.sample(conditioning, seed=0, plan=plan)
    sampled = time.perf_counter()
    session.decode(latents)
    return sampled - encoded, time.perf_counter() - begun


def faithful_of(times: Sequence[PresetTime]) -> PresetTime | None:
    """The run that ratios are to, if there is one."""
    return next((one for one in times if one.preset == FAITHFUL.name), None)
