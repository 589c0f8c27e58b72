"""What a plan has to be before it is loaded: for this GPU and library, of this graph, and trusted.

In that order, so that the error of a plan that cannot run here says which command rebuilds it.
"""

from __future__ import annotations

from typing import Any

from omni_rt.bundle import Bundle
from omni_rt.engines.engine_key import identity_of, is_signed
from omni_rt.errors import EngineError
from omni_rt.manifest import EngineSpec, TargetEngines


def engines_for(
    bundle: Bundle, library: str, version: str, compute_capability: str
) -> tuple[str, TargetEngines]:
    """The target of a bundle whose engines run on this GPU with this library, and its engines.

    Raises EngineError if there is none, naming what there is and the command that builds it.
    """
    built = {n: e for n, e in bundle.manifest.engines.items() if e.library == library}
    here = f"sm_{compute_capability.replace('.', '')}"
    if not built:
        raise EngineError(f"this bundle has no engines of {library}: {_rebuild(bundle, 'TARGET')}")
    for target, engines in built.items():
        if engines.compute_capability == compute_capability:
            if engines.version != version:
                raise EngineError(
                    f"these engines were built by {library} {engines.version}, here is {version}: "
                    f"{_rebuild(bundle, target)}, or install {library} {engines.version}"
                )
            return target, engines
    have = ", ".join(f"{n} (compute capability {e.compute_capability})" for n, e in built.items())
    raise EngineError(
        f"this GPU is {here}, and the bundle has engines for {have}: {_rebuild(bundle, 'TARGET')}"
    )


def trusted_plan(bundle: Bundle, stage: str, target: str, engines: TargetEngines) -> bytes:
    """The bytes of a stage's plan, which are safe to load.

    Raises EngineError for a stage that was not built, a plan of another graph, one that was
    changed, and one that was signed with a key this user does not trust.
    """
    spec = engines.stages.get(stage)
    if spec is None:
        have = ", ".join(engines.stages)
        raise EngineError(
            f"no engine of {stage} for {target} (there are {have}): {_rebuild(bundle, target)}"
        )
    if spec.graph != bundle.graph_digest(stage):
        raise EngineError(
            f"the engine of {stage} was built from another graph: {_rebuild(bundle, target)}"
        )
    try:
        plan = bundle.path(spec.path).read_bytes()
    except OSError as error:
        raise EngineError(f"{spec.path}: {error.strerror}: {_rebuild(bundle, target)}") from error
    if not is_signed(spec.signature, plan, **identity_of(engines, stage)):
        raise EngineError(
            f"{spec.path} was changed, or signed by someone you do not trust: "
            f"{_rebuild(bundle, target)}, or omni-rt trust-key KEY with the builder's key"
        )
    return plan


def check_driver(runtime: Any, plan: bytes, *, remedy: str) -> None:
    """Raise EngineError if the library says that this GPU or driver does not run a plan.

    TensorRT-RTX alone can be asked; TensorRT says so by not loading the plan.
    """
    judge = getattr(runtime, "get_engine_validity", None)
    if judge is None:
        return
    validity, reasons = judge(plan)
    if getattr(validity, "name", str(validity)) == "INVALID":
        raise EngineError(f"this GPU or its driver does not run the plan ({reasons}): {remedy}")


def driver_remedy(bundle: Bundle, target: str, driver: str) -> str:
    """What to do where a plan does not load. `driver` is the newest CUDA that it runs."""
    return f"update the driver (CUDA {driver}), or {_rebuild(bundle, target)}"


def profile_for(spec: EngineSpec, stage: str, sizes: dict[str, int]) -> int:
    """The first profile that takes these sizes, or takes them padded (tokens of a context).

    Raises EngineError listing what was built.
    """
    for i, profile in enumerate(spec.profiles):
        if all(
            (least <= sizes[name] or name == PADDED) and sizes[name] <= most
            for name, (least, _, most) in profile.sizes.items()
        ):
            return i
    built = "; ".join(
        ", ".join(f"{name} {r[0]} to {r[2]}" for name, r in profile.sizes.items())
        for profile in spec.profiles
    )
    asked = ", ".join(f"{name} {size}" for name, size in sizes.items())
    raise EngineError(f"{stage}: {asked} fit no profile ({built}): {_smaller_or_built(stage)}")


def _smaller_or_built(stage: str) -> str:
    """What helps against sizes that a plan was not built for."""
    if stage == "dit_step":
        return "omni-rt build has --contexts and --requests"
    if stage.startswith("thinker_"):
        return "shorten the prompt, its recordings, its video or the history"
    return "this stage takes no more at once: ask for less"


PADDED = "P"  # tokens of a context: more of them, hidden by the bias, change nothing


def _rebuild(bundle: Bundle, target: str) -> str:
    return f"omni-rt build {bundle.directory} --target {target} --out NEW"
