"""What a bundle's presets cost and what they were measured to be worth, as rows and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omni_rt.bundle import Bundle
from omni_rt.plan_choice import PlanChoice
from omni_rt.preset_record import MeasuredPreset
from omni_rt.presets import offered, passes, plan_named

COLUMNS = (
    "preset",
    "plan",
    "passes",
    "error",
    "log-mel",
    "seeds",
    "drop",
    "outside",
    "",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetRow:
    """A preset that a bundle offers, and what was measured of it. `default`: taken if none is."""

    bundle: str
    preset: str
    plan: str
    passes: int
    default: bool
    measured: MeasuredPreset | None
    seeds_log_mel: float | None  # the teacher's between two seeds
    outside: tuple[str, ...]  # in what it lies outside the teacher's seed-to-seed spread


def preset_rows(bundle: Bundle) -> tuple[PresetRow, ...]:
    """A row for every preset that a bundle offers."""
    record = bundle.manifest.presets
    guidance = PlanChoice(bundle).guidance(None)
    rows = []
    for preset in offered(bundle):
        plan = plan_named(bundle, preset.name, cfg_scale=guidance)
        measured = None if record is None else record.presets.get(preset.name)
        rows.append(
            PresetRow(
                bundle=bundle.manifest.name,
                preset=preset.name,
                plan=preset.plan,
                passes=passes(plan, cfg_scale=guidance),
                default=preset.plan == bundle.manifest.default_plan,
                measured=measured,
                seeds_log_mel=None if record is None else record.spread.log_mel,
                outside=() if record is None or measured is None else record.exceeded(preset.name),
            )
        )
    return tuple(rows)


def cells(row: PresetRow) -> tuple[str, ...]:
    """A row's text, one for each of COLUMNS."""
    default = "default" if row.default else ""
    measured = row.measured
    if measured is None:
        return (row.preset, row.plan, str(row.passes), *["–"] * 5, default)
    drop = measured.mean_drop
    return (
        row.preset,
        row.plan,
        str(measured.passes),
        f"{measured.latents:.3f}",
        f"{measured.log_mel:.3f}",
        f"{row.seeds_log_mel:.3f}",
        "not scored" if drop is None else f"{drop:.1f}",
        ", ".join(row.outside) or "nothing",
        default,
    )


def table_of(bundles: Sequence[Bundle]) -> str:
    """The presets of several bundles as one Markdown table, and what its columns are."""
    lines = [_line(COLUMNS), "|" + "---|" * len(COLUMNS)]
    rows = [row for bundle in bundles for row in preset_rows(bundle)]
    lines += [_line(cells(row)) for row in rows]
    return "\n".join([*lines, "", *map(measured_how, bundles)]) + "\n"


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def measured_how(bundle: Bundle) -> str:
    """Against what a bundle's presets were measured, on how much; or that they are not."""
    record, name = bundle.manifest.presets, bundle.manifest.name
    if record is None:
        return f"{name}: these presets are not measured yet."
    scores = (
        f"drop: points below faithful, mean over {len(record.spread.points)} kinds of "
        f"{record.count} examples"
        if record.spread.points
        else "no scores"
    )
    teacher = "" if record.teacher is None else f" of its teacher {record.teacher}"
    return (
        f"{name}: error: of latents, from {record.reference}{teacher} at guidance "
        f"{record.cfg_scale:g} and equal noise, {len(record.cases)} requests; "
        f"log-mel: the same of sounds; seeds: log-mel between two seeds; {scores}."
    )
