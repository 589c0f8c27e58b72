"""Which plan a request is sampled with, and whether its rows hold for this model and guidance."""

from __future__ import annotations

import logging

from omni_rt.bundle import Bundle
from omni_rt.errors import BundleError, RequestError
from omni_rt.options import checked_guidance
from omni_rt.plans import Model, Plan
from omni_rt.presets import FAITHFUL, not_followed, plan_named

_UNGUIDED = 1.0
_log = logging.getLogger("omni_rt")


class PlanChoice:
    """Chooses plans for the requests of one bundle. Thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._told: set[tuple[str, float | None, float]] = set()

    def guidance(self, cfg_scale: float | None) -> float:
        """What is given; for None the model's own: 7 unless its configuration tells another."""
        return self._bundle.guidance(cfg_scale)

    def plan(self, plan: str | Plan | None, *, cfg_scale: float) -> Plan:
        """A plan by its or a preset's name, the bundle's default for None, or the one given.

        Of rows for several guidance scales the nearest are taken, which the log says once; if they
        are not for the one that is asked for, as a warning. Raises RequestError for an unknown
        name, for a preset that the bundle lacks, for guidance of a student, and for a plan that is
        for another model; BundleError if such a plan is the bundle's own.
        """
        guidance = checked_guidance(cfg_scale)
        found = plan if isinstance(plan, Plan) else self._named(plan, guidance)
        self._check_student(found, guidance)
        self._tell(found, guidance)
        return found

    def of_variation(self, plan: str | Plan | None) -> str | Plan | None:
        """What to sample a variation of a clip with: `plan`, or faithful where a default cannot.

        Rows that were fitted hold from pure noise on, so that a default of them is not taken; a
        warning says so. What was named is left to be refused. Raises RequestError for a student.
        """
        if self._bundle.student_plans:
            raise RequestError(
                "this bundle's model is distilled and starts from noise alone: variations of a "
                "clip (init_audio) need its teacher's bundle"
            )
        if plan is not None:
            return plan
        default = self._named(None, self.guidance(None))
        if default.method is not None:
            return None
        _log.warning(
            "plan %s is fitted and cannot start from a clip: %s is taken; name an analytic plan "
            "such as ab3-25 for less work",
            default.name,
            FAITHFUL.plan,
        )
        return FAITHFUL.plan

    def _named(self, name: str | None, guidance: float) -> Plan:
        name = self._bundle.manifest.default_plan if name is None else name
        if not isinstance(name, str):
            raise RequestError(f"plan must be a name or a Plan, got {type(name).__name__}")
        return plan_named(self._bundle, name, cfg_scale=guidance)

    def _check_student(self, plan: Plan, guidance: float) -> None:
        """A student follows the rows it was distilled to, or that were fitted to it, unguided."""
        if plan.model is not None:
            self._check_model(plan, plan.model)
        students = self._bundle.student_plans
        if students and plan.model is None:
            raise RequestError(not_followed(self._bundle, plan.name))
        distilled = students or (plan.model is not None and plan.model.kind == "student")
        if distilled and guidance != _UNGUIDED:
            raise RequestError(
                "this bundle's model is distilled to run without guidance: "
                f"cfg_scale must be 1, got {guidance:g}"
            )

    def _check_model(self, plan: Plan, model: Model) -> None:
        bundle = self._bundle
        precision = bundle.graph("dit_step").precision
        if model.precision != precision:
            whose = f"a model in {model.precision}, and this bundle's is in {precision}"
        elif model.digest != bundle.graph_digest("dit_step"):
            whose = "another model than this bundle's"
        else:
            return
        message = f"plan {plan.name!r} was made for {whose}: {_remedy(plan, model, bundle)}"
        raise BundleError(message) if plan.name in bundle.plan_files else RequestError(message)

    def _tell(self, plan: Plan, guidance: float) -> None:
        told = (plan.name, plan.cfg_scale, guidance)
        if plan.cfg_scale is None or told in self._told:
            return
        self._told.add(told)
        if plan.cfg_scale == guidance:
            _log.info("plan %s: its rows for guidance %g are taken", plan.name, guidance)
            return
        _log.warning(
            "plan %s has no rows for guidance %g: the nearest, for %g, are taken; errors may be "
            "larger; omni-rt fit-solver %s --steps %d --cfg %g adds rows for it",
            plan.name,
            guidance,
            plan.cfg_scale,
            self._bundle.directory,
            plan.steps,
            guidance,
        )


def _remedy(plan: Plan, model: Model, bundle: Bundle) -> str:
    if model.kind == "student":
        return "use the bundle that it came with"
    return (
        f"fit it to this one with omni-rt fit-solver {bundle.directory} --steps {plan.steps} "
        f"--cfg {plan.cfg_scale:g}"
    )
