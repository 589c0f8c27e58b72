"""A bundle → a new bundle with engines: every stage compiled, proved, signed and described."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from omni_rt.bundle import Bundle
from omni_rt.engines.engine_key import identity_of, own_key, read_key, signature
from omni_rt.engines.tensorrt_library import INSTALL, RTX, library_named
from omni_rt.errors import ExportError, RequestError
from omni_rt.export.engines.profiles import Buckets
from omni_rt.export.engines.stage_job import StageBuild, StageJob, compile_stage, in_own_process
from omni_rt.export.pack import check_target, copy_files, list_files, new_directory
from omni_rt.manifest import Precision, TargetEngines, write_manifest
from omni_rt.targets import PRECISIONS, StageFormat, Target, target_named

Progress = Callable[[str], None]

_TIMES_THE_BUNDLE = 3  # its copy, and engines with the kernels of all their profiles


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What to compile, for what."""

    bundle: Path
    out: Path
    target: str
    stages: tuple[str, ...] = ()  # all that the bundle has, if none is given
    buckets: Buckets = field(default_factory=Buckets)
    library: str | None = None  # the target's if not given
    compute_capability: str | None = None  # likewise
    sign_key: Path | None = None  # this user's own if not given
    timing_cache: Path | None = None
    overwrite: bool = False


def build_engines(
    options: BuildOptions,
    *,
    progress: Progress = lambda _: None,
    detail: Progress = lambda _: None,
) -> Path:
    """Make the bundle `options.out`: a copy with engines for the target. Returns its path.

    Every stage is compiled in a process of its own; `progress` is told which, `detail` how far it
    is. Raises RequestError for an unknown target or
    stage, EngineError for a missing library or a key of no use, ExportError for a graph that cannot
    be built, a plan of which not all is proved, and a place that cannot be written.
    """
    target, capability = compiled_for(options)
    library_named(target.library)
    bundle = Bundle.open(options.bundle)
    stages = compiled_stages(bundle, options.stages)
    check_rounding(bundle, stages, target)
    key = own_key() if options.sign_key is None else read_key(options.sign_key)
    needed = _TIMES_THE_BUNDLE * bundle.manifest.size_bytes
    check_target(options.out, needed, options.overwrite)
    with new_directory(options.out, needed_bytes=needed, overwrite=options.overwrite) as draft:
        copy_files(bundle, draft)
        builds: dict[str, StageBuild] = {}
        for i, stage in enumerate(stages):
            progress(f"{stage} ({i + 1} of {len(stages)})")
            job = _job(options, target, capability, stage, draft)
            builds[stage] = in_own_process(compile_stage, job, detail)
        progress("signing and hashing")
        engines = TargetEngines(
            library=target.library,
            version=next(iter(builds.values())).version,
            compute_capability=capability,
            stages={stage: build.spec for stage, build in builds.items()},
        )
        engines = added_to(bundle.manifest.engines.get(target.name), signed(engines, draft, key))
        every = {**bundle.manifest.engines, target.name: engines}
        write_manifest(replace(bundle.manifest, engines=every, files=list_files(draft)), draft)
    return options.out


def compiled_for(options: BuildOptions) -> tuple[Target, str]:
    """The target with the library to use, and the compute capability to compile for.

    Raises RequestError for a target whose engines are not compiled, and options of no effect.
    """
    target = target_named(options.target)
    capability = options.compute_capability or target.compute_capability
    if target.library not in INSTALL or capability is None:
        raise RequestError(f"target {target.name}: {target.library} needs no compiled engines")
    library = options.library or target.library
    if library == RTX and options.timing_cache is not None:
        raise RequestError(f"{RTX} measures no kernels when it builds: --timing-cache is of no use")
    return replace(target, library=library), capability


def check_rounding(bundle: Bundle, stages: Sequence[str], target: Target) -> None:
    """Raise ExportError for stages that were rounded for another device; unrounded ones fit all."""
    for stage in stages:
        found = bundle.graph(stage).precision
        wanted = target.formats.get(stage)
        if found != "fp32" and not _computes(target, wanted, found):
            raise ExportError(
                f"{stage} is rounded to {found}, for {target.name} it has to be {wanted}: "
                f"omni-rt quantise UNROUNDED --target {target.name}"
            )


def _computes(target: Target, wanted: StageFormat | None, found: Precision) -> bool:
    """Whether a target computes a stage in what it was rounded to, instead of what it would be.

    GPUs that multiply E4M3 multiply 8-bit integers too (`quantise --int8`).
    """
    if wanted is None:
        return False
    either = {"int8", "fp8"} if "fp8" in target.formats.values() else set()
    return found == PRECISIONS[wanted] or {found, PRECISIONS[wanted]} <= either


def added_to(before: TargetEngines | None, new: TargetEngines) -> TargetEngines:
    """New engines with those of other stages that the same library built for the same device."""
    if before is None or replace(before, stages={}, on_device=None) != replace(new, stages={}):
        return new
    return replace(new, stages={**before.stages, **new.stages})


def signed(engines: TargetEngines, folder: Path, key: bytes) -> TargetEngines:
    """The same engines with signatures of their plans, which lie below `folder`."""
    stages = {
        stage: replace(
            spec,
            signature=signature(
                key, (folder / spec.path).read_bytes(), **identity_of(engines, stage)
            ),
        )
        for stage, spec in engines.stages.items()
    }
    return replace(engines, stages=stages)


def _job(
    options: BuildOptions, target: Target, capability: str, stage: str, draft: Path
) -> StageJob:
    path = f"engines/{target.name}/{stage}.plan"
    (draft / path).parent.mkdir(parents=True, exist_ok=True)
    return StageJob(
        bundle=options.bundle,
        stage=stage,
        plan=draft / path,
        stored_as=path,
        library=target.library,
        compute_capability=capability,
        buckets=options.buckets,
        timing_cache=options.timing_cache,
    )


def compiled_stages(bundle: Bundle, stages: tuple[str, ...]) -> tuple[str, ...]:
    """These stages, or all that the bundle has.

    Raises RequestError for one that it has not, BundleError if it was packed without its graph.
    """
    have = tuple(bundle.manifest.graphs)
    unknown = [stage for stage in stages if stage not in have]
    if unknown:
        raise RequestError(
            f"no stages {', '.join(unknown)} here: this bundle has {', '.join(have)}"
        )
    for stage in stages or have:
        bundle.graph_file(stage)
    return stages or have
