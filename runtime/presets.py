"""Presets: names for how much work a sound is worth. Each is a plan, where the bundle has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from omni_rt.bundle import Bundle
from omni_rt.errors import RequestError
from omni_rt.plans import METHODS, Plan, make_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A name that is taken wherever a plan's is."""

    name: str
    plan: str
    about: str


FAITHFUL = Preset(name="faithful", plan="euler-100", about="the original's hundred guided steps")
PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        FAITHFUL,
        Preset(name="balanced", plan="ls3-16", about="16 guided steps fitted to the model"),
        Preset(name="fast", plan="ls3-8", about="8 guided steps fitted to the model"),
        Preset(name="student-8", plan="student-8", about="8 steps of a student, unguided"),
        Preset(name="student-4", plan="student-4", about="4 steps of a student, unguided"),
    )
}


def offered(bundle: Bundle) -> tuple[Preset, ...]:
    """The presets whose plan this bundle has: a student's own alone, else what needs no student."""
    return tuple(preset for preset in PRESETS.values() if _has(bundle, preset.plan))


def _has(bundle: Bundle, plan: str) -> bool:
    if bundle.student_plans:
        return plan in bundle.student_plans
    return plan in bundle.plan_files or plan.rpartition("-")[0] in METHODS


def plan_named(bundle: Bundle, name: str, *, cfg_scale: float) -> Plan:
    """What a name means: a preset, a plan of the bundle's own, or `method-steps`, in this order.

    Raises RequestError for a preset whose plan the bundle lacks, listing those that it offers, for
    a name that is none of the three, and for any but a student's own.
    """
    preset = PRESETS.get(name)
    if preset is not None and not _has(bundle, preset.plan):
        raise RequestError(_lacking(bundle, preset))
    plan = name if preset is None else preset.plan
    found = bundle.plan(plan, cfg_scale=cfg_scale)
    if found is None and bundle.student_plans:
        raise RequestError(not_followed(bundle, plan))
    return found or make_plan(plan)


def not_followed(bundle: Bundle, plan: str) -> str:
    """Why a student's bundle refuses a plan."""
    return (
        f"this bundle's model is distilled and does not follow plan {plan!r}: use {_only(bundle)}"
    )


def _lacking(bundle: Bundle, preset: Preset) -> str:
    have = ", ".join(p.name for p in offered(bundle)) or f"none, but plan {_only(bundle)}"
    method, _, steps = preset.plan.rpartition("-")
    if bundle.student_plans:
        why = f"its model is distilled to {_only(bundle)} and follows no other plan"
    elif method == "student":
        why = "its model is not distilled"
    else:
        why = (
            f"plan {preset.plan} is not fitted to its model "
            f"(omni-rt fit-solver {bundle.directory} --steps {steps})"
        )
    return f"this bundle has no preset {preset.name!r}: {why}; it offers {have}"


def _only(bundle: Bundle) -> str:
    return " or ".join(bundle.student_plans)


def passes(plan: Plan, *, cfg_scale: float) -> int:
    """How many times the network is evaluated for a request: rows (two if guided) × steps."""
    return (1 if cfg_scale == 1 else 2) * plan.evaluations
