"""What `omni-rt compare` found as tables, for terminals and pages alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from omni_rt.comparison import Comparison, Difference, Made, Side, StageFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Text in rows and columns; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def summary(c: Comparison) -> str:
    """What was compared, in a line."""
    if c.b is None:
        return f"{c.a.label} beside the reference it carries"
    return f"A: {c.a.label}, B: {c.b.label}"


def conditions(c: Comparison) -> str:
    """How it was compared, in a line."""
    threads = "all threads" if c.threads is None else f"threads {c.threads}"
    noise = "the reference's noise" if c.seed is None else f"seed {c.seed}"
    return f"{c.engine}, {threads}; plan {c.plan}, guidance {c.cfg_scale:g}, {noise}"


def tables(c: Comparison) -> list[Table]:
    """Every table that has rows."""
    found = [_bundles(c), _stages(c), _outputs(c), _velocity(c), _made(c)]
    return [table for table in found if table.rows]


def _sides(c: Comparison) -> list[Side]:
    return [c.a] if c.b is None else [c.a, c.b]


def _letters(c: Comparison) -> tuple[str, ...]:
    return ("A",) if c.b is None else ("A", "B")


def _bundles(c: Comparison) -> Table:
    def row(name: str, of: Callable[[Side], str], ratio: float | None = None) -> tuple[str, ...]:
        last = () if c.b is None else ("" if ratio is None else f"{ratio:.3f}",)
        return (name, *map(of, _sides(c)), *last)

    rows = [
        row("name", lambda side: side.label),
        row("id", lambda side: side.bundle),
        row("MB on disk", lambda side: f"{side.size_bytes / 1e6:.2f}", c.size_ratio),
        row("MB of graphs", lambda side: f"{side.graphs_bytes / 1e6:.2f}", c.graphs_ratio),
        row("loading, s", _load_s),
        row("step, median ms", lambda side: _step(side, "p50_s"), c.step_ratio),
        row("step, min ms", lambda side: _step(side, "min_s"), _least_ratio(c)),
    ]
    last = () if c.b is None else ("B / A",)
    return Table(title="bundles", columns=("", *_letters(c), *last), rows=tuple(rows))


def _load_s(side: Side) -> str:
    loaded = [facts.load_s for facts in side.stages.values() if facts.load_s is not None]
    return f"{sum(loaded):.2f}" if loaded else "–"


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1e3 * seconds:.2f}"


def _step(side: Side, figure: Literal["p50_s", "min_s"]) -> str:
    return _ms(None if side.step is None else getattr(side.step, figure))


def _least_ratio(c: Comparison) -> float | None:
    if c.b is None or c.b.step is None or c.a.step is None:
        return None
    return c.b.step.min_s / c.a.step.min_s


def _stages(c: Comparison) -> Table:
    sides = _sides(c)

    def cell(stage: str, of: Callable[[StageFacts], str]) -> str:
        found = [of(side.stages[stage]) if stage in side.stages else "–" for side in sides]
        return " / ".join(dict.fromkeys(found) if of is _precision else found)

    names = dict.fromkeys(stage for side in sides for stage in side.stages)
    rows = [
        (stage, cell(stage, _precision), cell(stage, _megabytes), cell(stage, _loading))
        for stage in names
    ]
    both = "" if c.b is None else " A / B"
    columns = ("stage", *(what + both for what in ("precision", "MB", "loading ms")))
    title = "stages (weights that stages share count for each)"
    return Table(title=title, columns=columns, rows=tuple(rows))


def _precision(facts: StageFacts) -> str:
    return facts.precision


def _megabytes(facts: StageFacts) -> str:
    return f"{facts.size_bytes / 1e6:.2f}"


def _loading(facts: StageFacts) -> str:
    return _ms(facts.load_s)


def _outputs(c: Comparison) -> Table:
    title = "outputs, B against A" if c.b is not None else "outputs, against the reference's"
    rows = [(name, *_difference(d), _small(d.max_abs)) for name, d in c.outputs.items()]
    columns = ("output", "rel. L2", "cosine", "SNR dB", "max abs")
    return Table(title=title, columns=columns, rows=tuple(rows))


def _difference(d: Difference) -> tuple[str, str, str]:
    snr = "exact" if d.rel_l2 == 0 else "–" if d.snr_db is None else f"{d.snr_db:.1f}"
    return _small(d.rel_l2), f"{d.cosine:.6f}", snr


def _small(error: float) -> str:
    return "0" if error == 0 else f"{error:.2e}"


def _velocity(c: Comparison) -> Table:
    rows = [(f"{v.t:.3f}", _small(v.rel_l2), _small(v.guided_rel_l2)) for v in c.velocity]
    title = "velocity, B against A at A's states (rel. L2)"
    return Table(title=title, columns=("t", "both branches", "guided"), rows=tuple(rows))


def _made(c: Comparison) -> Table:
    columns = ("request", "latents rel. L2", "cosine", "SNR dB", "LSD dB", "STFT", "log-mel cosine")
    rows = [(m.request, *_difference(m.latents), *_sound(m)) for m in c.made]
    return Table(title="made at equal noise", columns=columns, rows=tuple(rows))


def _sound(made: Made) -> tuple[str, str, str]:
    if made.sound is None:
        return "–", "–", "–"
    sound = made.sound
    return f"{sound.lsd_db:.3f}", f"{sound.stft:.4f}", f"{sound.log_mel_cosine:.5f}"
