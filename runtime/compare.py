"""Two bundles side by side, or a bundle and its reference: sizes, speed, errors, sound. No torch.

compared = compare(Bundle.open("fp32"), Bundle.open("int8"))
missed = [v for v in judged(compared.comparison, Budgets(max_lsd_db=3)) if not v.passed]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from omni_rt.bundle import Bundle
from omni_rt.compare_sounds import (
    PARITY_INPUTS,
    REFERENCE_TRAJECTORY,
    Pair,
    Sounds,
    compared_sounds,
    made_by,
    prepared_requests,
    reference_sampling,
    requests_for,
    retraced,
)
from omni_rt.compare_stages import PAIR, Opened, Tell, compared_stages, opened
from omni_rt.compare_steps import Race, compared_pair, has_pair, parity_prepared, raced
from omni_rt.comparison import Comparison, Made, VelocityDifference
from omni_rt.encode import Prepared
from omni_rt.engines.registry import AUTO, LoadEngine, resolved
from omni_rt.errors import RequestError
from omni_rt.options import Sampling, checked_seed
from omni_rt.plan_choice import PlanChoice
from omni_rt.sampling import Noise
from omni_rt.tasks import Request
from omni_rt.timing import Timing

DEFAULT_PLAN, DEFAULT_SEED = "ab3-25", 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to compare. Plan, guidance, seed and prompts are for two bundles: see the defaults."""

    plan: str | None = None
    cfg_scale: float | None = None
    seed: int | None = None
    prompts: Sequence[str] = ()
    runs: int = 7  # timed steps of each bundle
    threads: int | None = None
    engine: str | LoadEngine = AUTO


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compared:
    """What was found, and the sounds: request, A's (or the reference's), B's (or A's)."""

    comparison: Comparison
    pairs: tuple[Pair, ...]


def compare(
    a: Bundle,
    b: Bundle | None = None,
    settings: Settings | None = None,
    *,
    tell: Tell = lambda _: None,
) -> Compared:
    """B against A, or without B, A against the reference outputs that it carries.

    At most the stages of one phase are in memory, of each bundle. Certificates are not asked for:
    this measures. Raises RequestError for bundles of different models and for settings that cannot
    be, BundleError for parity data that are incomplete, and EngineError if a stage fails or gives
    NaN or infinite values.
    """
    settings = Settings() if settings is None else settings
    if settings.runs < 1:
        raise RequestError(f"runs must be at least 1, got {settings.runs}")
    sides = [opened(a, engine=settings.engine, threads=settings.threads)]
    if b is None:
        _refuse_choices(settings)
        how, requests = reference_sampling(a) or _sampling(a, settings), {}
    else:
        check_same_model(a, b)
        sides.append(opened(b, engine=settings.engine, threads=settings.threads))
        how, requests = _sampling(a, settings), _requests((a, b), settings.prompts)
    seed = DEFAULT_SEED if settings.seed is None else checked_seed(settings.seed)
    _import_library(a, settings)
    job = _Job(sides=sides, settings=settings, how=how, seed=seed, requests=requests, tell=tell)
    return job.compared()


def check_same_model(a: Bundle, b: Bundle) -> None:
    """Raise RequestError unless the sizes are equal; either may lack the thinker."""
    ours, theirs = a.manifest.dims, b.manifest.dims
    differ = [
        f"{f.name} {getattr(ours, f.name)} and {getattr(theirs, f.name)}"
        for f in fields(ours)
        if getattr(ours, f.name) != getattr(theirs, f.name)
        and (f.name != "thinker" or None not in (ours.thinker, theirs.thinker))
    ]
    if differ:
        raise RequestError(f"bundles of different models: {', '.join(differ)}"[:300])


def _import_library(bundle: Bundle, settings: Settings) -> None:
    """Load A's smallest graph, so that no stage's time is that of importing a library."""
    once = opened(bundle, engine=settings.engine, threads=settings.threads)
    stages = once.side(None).stages
    if stages:
        once.pool.get(min(stages, key=lambda stage: stages[stage].size_bytes))


def _refuse_choices(settings: Settings) -> None:
    given = [name for name in ("plan", "cfg_scale", "seed") if getattr(settings, name) is not None]
    given += ["prompts"] if settings.prompts else []
    if given:
        raise RequestError(
            f"{', '.join(given)}: only with a second bundle; the reference outputs that a bundle "
            "carries were made with their own"
        )


def _sampling(bundle: Bundle, settings: Settings) -> Sampling:
    choice = PlanChoice(bundle)
    guidance = choice.guidance(settings.cfg_scale)
    usual = None if bundle.student_plans else DEFAULT_PLAN
    plan = choice.plan(settings.plan or usual, cfg_scale=guidance)
    if plan.grid[0] < 1:
        raise RequestError(f"plan {plan.name!r} starts at σ = {plan.grid[0]:g}, not at noise")
    return Sampling(plan=plan, cfg_scale=guidance)


def _requests(bundles: Sequence[Bundle], prompts: Sequence[str]) -> dict[str, Request]:
    requests = requests_for(bundles, prompts)
    if prompts and not requests:
        raise RequestError("prompts need the stages from thinker_embed to dit_step in both bundles")
    return requests


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    """One comparison, its settings checked."""

    sides: Sequence[Opened]  # A, and B if there is one
    settings: Settings
    how: Sampling
    seed: int
    requests: Mapping[str, Request]
    tell: Tell
    notes: list[str] = field(default_factory=list)  # what was not compared, and why

    @property
    def _b(self) -> Opened | None:
        return self.sides[1] if len(self.sides) > 1 else None

    def compared(self) -> Compared:
        outputs = dict(compared_stages(self.sides[0], self._b, self.notes, self.tell))
        times: tuple[Timing | None, ...] = (None, None)
        velocity: tuple[VelocityDifference, ...] = ()
        if has_pair(self.sides):
            self.tell("+".join(PAIR))
            outputs["+".join(PAIR) + "/v"] = compared_pair(self.sides[0], self._b)
            race = self._raced()
            times, velocity = (*race.times, None), race.velocity
        else:
            self.notes.append(
                "velocities: they need context, dit_step, and A's parity data of both"
            )
        made, pairs = self._retraced() if self._b is None else self._made()
        engine = self.settings.engine
        comparison = Comparison(
            a=self.sides[0].side(times[0]),
            b=None if self._b is None else self._b.side(times[1]),
            engine=resolved(engine) if isinstance(engine, str) else "its own",
            threads=self.settings.threads,
            plan=self.how.plan.name,
            cfg_scale=float(self.how.cfg_scale),
            seed=None if self._b is None else self.seed,
            outputs=outputs,
            velocity=velocity,
            made=tuple(made),
            notes=tuple(self.notes),
        )
        return Compared(comparison=comparison, pairs=tuple(pairs))

    def _raced(self) -> Race:
        self.tell("steps, in turns")
        dims = self.sides[0].bundle.manifest.dims
        noise = Noise(self.seed, (dims.latent_channels, dims.latent_frames)).initial[None]
        return raced(
            self.sides,
            [parity_prepared(side, self.sides) for side in self.sides],
            noise,
            cfg_scale=float(self.how.cfg_scale),
            runs=self.settings.runs,
        )

    def _retraced(self) -> tuple[list[Made], list[Pair]]:
        """A's own trajectory beside the reference's."""
        (a,) = self.sides
        if not (has_pair(self.sides) and REFERENCE_TRAJECTORY in a.bundle.manifest.parity):
            self.notes.append("latents and sound: A carries no trajectory of the reference")
            return [], []
        self.tell(f"the reference's trajectory: {self.how.plan.name}")
        reference, value = retraced(a, self.how)
        return self._judged([f"{PARITY_INPUTS}, {self.how.plan.name}"], reference, value)

    def _made(self) -> tuple[list[Made], list[Pair]]:
        """The requests, or without a thinker A's parity inputs, by both."""
        if not self.requests:
            self.notes.append("requests: they need the stages up to dit_step in both")
            if not has_pair(self.sides):
                self.notes.append("latents and sound: they need A's parity data of dit_step")
                return [], []
        names = list(self.requests) or [PARITY_INPUTS]
        found = []
        for letter, side in zip("AB", self.sides, strict=True):
            self.tell(f"{letter}: {len(names)} × {self.how.plan.name}")
            found.append(made_by(side, self._prepared(side), self.how, self.seed))
        return self._judged(names, *found)

    def _prepared(self, side: Opened) -> list[Prepared]:
        if self.requests:
            return prepared_requests(side, self.requests)
        return [parity_prepared(side, self.sides)]

    def _judged(
        self, names: Sequence[str], reference: Sounds, value: Sounds
    ) -> tuple[list[Made], list[Pair]]:
        if not (reference.waveforms and value.waveforms):
            self.notes.append("sound: it needs vae_decoder")
        rate_hz = self.sides[0].bundle.manifest.dims.sample_rate_hz
        return compared_sounds(names, reference, value, rate_hz=rate_hz)
