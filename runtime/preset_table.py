"""What a bundle's presets cost and what they were measured to be worth, as rows and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omni_rt.bundle import Bundle
from omni_rt.plan_choice import PlanChoice
from omni_rt.preset_record import MeasuredPreset, PresetRecord
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
        return (row.preset, row.plan, str(row.passes), *["not measured"] * 4, "", default)
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
    notes = [note for bundle in bundles for note in (_note(bundle),)]
    return "\n".join([*lines, "", *dict.fromkeys(notes)]) + "\n"


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def _note(bundle: Bundle) -> str:
    record = bundle.manifest.presets
    if record is None:
        return f"The presets of `{bundle.manifest.name}` are not measured yet."
    return f"{bundle.manifest.name}: {measured_how(record)}"


def measured_how(record: PresetRecord) -> str:
    """One sentence: against what, on how much."""
    scores = (
        f"drop: points below faithful, mean over {len(record.spread.points)} kinds of "
        f"{record.count} examples"
        if record.spread.points
        else "no scores"
    )
    teacher = "" if record.teacher is None else f" of its teacher {record.teacher}"
    return (
        f"error: of latents, from {record.reference}{teacher} at guidance {record.cfg_scale:g} and "
        f"equal noise, {len(record.cases)} requests; log-mel: the same of sounds; seeds: log-mel "
        f"between two seeds; {scores}."
    )
