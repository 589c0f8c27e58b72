"""What `omni-rt compare` finds, and the budgets it is held to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

from numpy.typing import ArrayLike

from omni_rt.audio_metrics import SoundDifference
from omni_rt.manifest import Precision
from omni_rt.metrics import measure
from omni_rt.timing import Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far B's array is from A's (or the reference's)."""

    rel_l2: float
    max_abs: float
    cosine: float
    snr_db: float | None  # None: equal to the bit, or not comparable (see rel_l2)

    @classmethod
    def of(cls, value: ArrayLike, reference: ArrayLike) -> Difference:
        """Raises ValueError for arrays of different sizes; see `omni_rt.metrics`."""
        found = measure(value, reference, bound_rel_l2=math.inf, origin="")
        return cls(
            rel_l2=found.rel_l2, max_abs=found.max_abs, cosine=found.cosine, snr_db=found.snr_db
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFacts:
    """One stage of one bundle. Files that stages share count for each of them."""

    precision: Precision
    size_bytes: int
    load_s: float | None  # None: it was not loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two bundles."""

    name: str
    target: str | None  # that it was rounded for
    bundle: str  # its id
    size_bytes: int  # of all its files: text, plans and parity data too
    graphs_bytes: int  # of graphs and weights
    stages: Mapping[str, StageFacts]
    step: Timing | None  # of one step at equal inputs, A and B taking turns

    @property
    def label(self) -> str:
        """What it is called: a rounded bundle has its source's name."""
        return self.name if self.target is None else f"{self.name} for {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VelocityDifference:
    """B's velocity against A's at a time, both at A's state."""

    t: float
    rel_l2: float  # of the branches as they are evaluated
    guided_rel_l2: float  # of what guidance makes of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The same request in both, at equal noise."""

    request: str
    latents: Difference
    sound: SoundDifference | None  # None: there is no decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """B against A; without B, A against the reference outputs that it carries."""

    a: Side
    b: Side | None
    engine: str
    threads: int | None
    plan: str
    cfg_scale: float
    seed: int | None  # None: the noise is the reference's
    outputs: Mapping[str, Difference]  # "stage/output" → …
    velocity: tuple[VelocityDifference, ...]
    made: tuple[Made, ...]
    notes: tuple[str, ...]  # what was not compared, and why

    @property
    def size_ratio(self) -> float | None:
        """B's bytes on disk over A's."""
        return None if self.b is None else self.b.size_bytes / self.a.size_bytes

    @property
    def graphs_ratio(self) -> float | None:
        """B's bytes of graphs and weights over A's."""
        return None if self.b is None else self.b.graphs_bytes / max(self.a.graphs_bytes, 1)

    @property
    def step_ratio(self) -> float | None:
        """B's median time per step over A's."""
        if self.b is None or self.b.step is None or self.a.step is None:
            return None
        return self.b.step.p50_s / self.a.step.p50_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """The most (or least) that is accepted; None: whatever it is."""

    max_stage_error: float | None = None
    max_velocity_error: float | None = None
    max_latent_error: float | None = None
    max_lsd_db: float | None = None
    max_stft: float | None = None
    min_log_mel_cosine: float | None = None
    max_size_ratio: float | None = None
    max_step_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A budget, and the worst that was found."""

    budget: str  # the option: "--max-lsd-db"
    bound: float
    worst: float | None  # None: it was not measured, which misses any budget
    where: str
    passed: bool

    def __str__(self) -> str:
        found = "not measured" if self.worst is None else f"{self.worst:.4g} ({self.where})"
        return f"{self.budget} {self.bound:g}: {found}"


Found = Iterator[tuple[str, float]]  # where → how much


def _velocities(c: Comparison) -> Found:
    return ((f"t = {v.t:.3g}", max(v.rel_l2, v.guided_rel_l2)) for v in c.velocity)


def _sounds(c: Comparison) -> Iterator[tuple[str, SoundDifference]]:
    return ((m.request, m.sound) for m in c.made if m.sound is not None)


def _ratio(ratio: float | None) -> Found:
    return iter([] if ratio is None else [("B / A", ratio)])


_MEASURED: Mapping[str, Callable[[Comparison], Found]] = {
    "max_stage_error": lambda c: ((name, d.rel_l2) for name, d in c.outputs.items()),
    "max_velocity_error": _velocities,
    "max_latent_error": lambda c: ((m.request, m.latents.rel_l2) for m in c.made),
    "max_lsd_db": lambda c: ((where, s.lsd_db) for where, s in _sounds(c)),
    "max_stft": lambda c: ((where, s.stft) for where, s in _sounds(c)),
    "min_log_mel_cosine": lambda c: ((where, s.log_mel_cosine) for where, s in _sounds(c)),
    "max_size_ratio": lambda c: _ratio(c.size_ratio),
    "max_step_ratio": lambda c: _ratio(c.step_ratio),
}


def judged(comparison: Comparison, budgets: Budgets) -> tuple[Verdict, ...]:
    """Every budget that is set, with the worst that was found for it."""
    return tuple(
        _verdict(f.name, bound, dict(_MEASURED[f.name](comparison)))
        for f in fields(budgets)
        if (bound := getattr(budgets, f.name)) is not None
    )


def _verdict(name: str, bound: float, found: Mapping[str, float]) -> Verdict:
    least = name.startswith("min_")
    option = "--" + name.replace("_", "-")
    if not found:
        return Verdict(budget=option, bound=bound, worst=None, where="", passed=False)
    where = (min if least else max)(found, key=lambda place: found[place])
    worst = found[where]
    passed = worst >= bound if least else worst <= bound
    return Verdict(budget=option, bound=bound, worst=worst, where=where, passed=passed)
