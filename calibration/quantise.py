"""Unrounded bundle → quantised bundle: observe, choose, write, certify."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import omni_rt
from omni_rt.bundle import Bundle
from omni_rt.calibration.budget import searched
from omni_rt.calibration.case import Case
from omni_rt.calibration.certificate import Certification, certify
from omni_rt.calibration.graph_writer import StageGraph
from omni_rt.calibration.inputs import CalibrationSet, calibration_set
from omni_rt.calibration.observe import observe
from omni_rt.calibration.ranges import Ranges
from omni_rt.calibration.recipes import Recipes, make_recipes
from omni_rt.calibration.search import Sensitivity
from omni_rt.calibration.trajectories import Course
from omni_rt.calibration.yardstick import FINER
from omni_rt.certificate_page import certificate_page
from omni_rt.certificate_sounds import report_beside
from omni_rt.errors import ExportError
from omni_rt.export.bundle_plans import carry_plans
from omni_rt.export.pack import check_target, copy_files, list_files, new_directory
from omni_rt.export.weight_file import WeightFile
from omni_rt.manifest import GraphSpec, Manifest, write_manifest
from omni_rt.plans import make_plan
from omni_rt.report_page import write_page
from omni_rt.targets import TARGETS, StageFormat, Target, target_as_asked
from omni_rt.uncertified import unsaid

Progress = Callable[[str], None]

# Added to the seed of the observed cases: the certificate's are others, and a budget's others yet.
# Matrices are rounded for what was observed, so that they are at their best there.
_HELD_OUT_SEED, _JUDGED_SEED = 1 << 20, 1 << 21
_ROOM_BYTES = 1 << 26
_SHOWN = 6  # sounds on the page


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiseOptions:
    """What to round, for what, from what."""

    bundle: Path
    out: Path
    target: str = "cpu"
    per_task: int = 16  # observed cases of each task: most for their words
    sampled: int = 4  # of these, so many through all steps
    steps: int = 12  # of each such trajectory, and up to four more
    cfg_scale: float | None = None  # None: the bundle's own
    seed: int = 0
    audio: Path | None = None  # the user's sounds instead of procedural ones
    ranges: Path | None = None  # where observed ranges are kept; beside `out` if not given
    keep: tuple[str, ...] = ()  # matrices, or patterns of them, that stay in high precision
    weights_only: tuple[str, ...] = ()  # likewise: rounded, but not what they read
    per_token: bool = True  # activations may have a scale for each token
    int8: bool = False  # 8-bit integers where the target has E4M3
    int4_block: int = 64  # input channels that share a scale
    budget: float | None = None  # most relative L2 of the guided velocity; None: round everything
    certify_steps: int = 100
    overwrite: bool = False


def quantise_bundle(options: QuantiseOptions, *, progress: Progress = lambda _: None) -> Path:
    """Make the bundle `options.out`. Returns its path.

    Raises ExportError for a bundle that is quantised already, inputs of no use, activations that
    are not finite and a full disk; RequestError for an unknown target. Observed ranges stay in
    `options.ranges` whatever happens, and another run goes on with them.
    """
    bundle = Bundle.open(options.bundle)
    check_unrounded_bundle(bundle)
    Course.of(bundle, options.cfg_scale)  # refused now, not after observing
    _target(options)
    with TemporaryDirectory() as films:
        inputs = observed_inputs(bundle, options, Path(films) / "observed")
        judged, held_out = (
            observed_inputs(
                bundle,
                replace(options, seed=options.seed + seed, per_task=1),
                Path(films) / str(seed),
            )
            for seed in (_JUDGED_SEED, _HELD_OUT_SEED)
        )
        for task, reason in inputs.left_out.items():
            progress(f"without {task}: {reason}")
        return round_bundle(bundle, inputs, held_out, options, judged=judged, progress=progress)


def round_bundle(
    bundle: Bundle,
    inputs: CalibrationSet,
    held_out: CalibrationSet,
    options: QuantiseOptions,
    *,
    judged: CalibrationSet | None = None,
    progress: Progress = lambda _: None,
) -> Path:
    """Make `options.out` from ranges observed on `inputs`, certified on `held_out`.

    judged: what a budget is held against; `inputs`, which flatters, if not given.

    Its certificate is also a page beside it, `OUT.report.html`, with some sounds' spectrograms.
    """
    target = _target(options)
    needed = _ROOM_BYTES + bundle.manifest.size_bytes
    check_target(options.out, needed, options.overwrite)  # now, not after all the work
    make_plan(f"euler-{FINER * options.certify_steps}")  # and this
    formats, ranges = observed_ranges(bundle, inputs, options, progress=progress)
    cases = inputs.cases if judged is None else judged.cases
    recipes, sensitivities = _chosen(bundle, formats, ranges, cases, options, progress)
    with new_directory(options.out, needed_bytes=needed, overwrite=options.overwrite) as draft:
        write_rounded(draft, bundle, target, recipes, progress)
        certification = Certification(
            source=bundle,
            target=target,
            recipes=recipes,
            inputs=inputs.digest,
            cases=held_out.cases,
            steps=options.certify_steps,
            course=Course.of(bundle, options.cfg_scale),
            sensitivities=sensitivities,
        )
        pairs = certify(draft, certification, progress)
    page = certificate_page(Bundle.open(options.out), pairs[:_SHOWN])
    write_page(page, report_beside(options.out))
    return options.out


def _target(options: QuantiseOptions) -> Target:
    """The target. Raises RequestError if there is none, ExportError if it cannot do as asked."""
    target = target_as_asked(options.target, int8=options.int8, int4_block=options.int4_block)
    if options.weights_only and not target.weights_only:
        able = ", ".join(name for name, other in TARGETS.items() if other.weights_only)
        raise ExportError(
            f"{target.name} cannot multiply by 8-bit weights alone, only {able}: "
            "keep those matrices instead"
        )
    return target


def _chosen(
    bundle: Bundle,
    formats: Mapping[str, StageFormat],
    ranges: Ranges,
    cases: Sequence[Case],
    options: QuantiseOptions,
    progress: Progress,
) -> tuple[Recipes, Sequence[Sensitivity]]:
    """How every stage is rounded, and what a search for the budget measured, if there is one."""
    keep, alone = options.keep, options.weights_only
    choose = partial(
        make_recipes, bundle, formats, ranges, per_token=options.per_token, progress=progress
    )
    recipes = choose(keep=keep, weights_only=alone)
    if options.budget is None:
        return recipes, ()
    found = searched(
        bundle,
        recipes,
        ranges,
        cases,
        budget=options.budget,
        course=Course.of(bundle, options.cfg_scale),
        steps=options.steps,
        weights_only=_target(options).weights_only,
        progress=progress,
    )
    keep, alone = (*keep, *found.assignment.kept), (*alone, *found.assignment.weights_only)
    return choose(keep=keep, weights_only=alone), found.sensitivities


def observed_ranges(
    bundle: Bundle, inputs: CalibrationSet, options: QuantiseOptions, *, progress: Progress
) -> tuple[Mapping[str, StageFormat], Ranges]:
    """The format of every stage that the target rounds, and what is observed of it on `inputs`."""
    target = _target(options)
    formats = {s: f for s, f in target.formats.items() if s in bundle.manifest.graphs}
    with unsaid():
        ranges = observe(
            bundle,
            inputs,
            [stage for stage in formats if stage != "thinker_embed"],  # looked up, never multiplied
            path=options.ranges or options.out.with_name(f"{options.out.name}.ranges.npz"),
            sampled=options.sampled,
            steps=options.steps,
            course=Course.of(bundle, options.cfg_scale),
            progress=progress,
        )
    return formats, ranges


def check_unrounded_bundle(bundle: Bundle) -> None:
    """Raise ExportError for a bundle with rounded graphs."""
    rounded = [name for name, graph in bundle.manifest.graphs.items() if graph.precision != "fp32"]
    if rounded:
        raise ExportError(
            f"this bundle is quantised already ({', '.join(rounded)}): start from the fp32 one"
        )


def observed_inputs(bundle: Bundle, options: QuantiseOptions, folder: Path) -> CalibrationSet:
    """The cases that these options observe; videos are written into `folder`."""
    return calibration_set(
        bundle.manifest.dims,
        bundle.manifest.graphs,
        per_task=options.per_task,
        seed=options.seed,
        audio=options.audio,
        folder=folder,
    )


def write_rounded(
    draft: Path, bundle: Bundle, target: Target, recipes: Recipes, progress: Progress
) -> Manifest:
    """Write every graph anew and copy the rest. Returns the manifest so far, uncertified."""
    plans = {*bundle.manifest.plans.values()}
    copy_files(
        bundle,
        draft,
        keep=lambda path: not path.startswith(("graphs/", "parity/")) and path not in plans,
    )
    (draft / "graphs").mkdir()
    data = {p for graph in bundle.manifest.graphs.values() for p in graph.data}
    files = {path: WeightFile(draft / path) for path in sorted(data)}
    graphs = {}
    try:
        for stage, spec in bundle.manifest.graphs.items():
            progress(f"graph {stage}")
            recipe = recipes.by_stage[stage]
            StageGraph(bundle, stage).write(recipe, files[spec.data[0]])
            graphs[stage] = _spec(spec, recipes, stage)
    finally:
        for file in files.values():
            file.close()
    manifest = replace(
        bundle.manifest,
        graphs=graphs,
        parity={},
        plans={},
        files=list_files(draft),
        certificate=None,
        presets=None,
        provenance={
            **bundle.manifest.provenance,
            "quantised": {"omni_rt": omni_rt.__version__, "target": target.name},
        },
    )
    write_manifest(manifest, draft)
    kept, lost = carry_plans(bundle, Bundle(draft, manifest))
    if lost:
        progress(f"without {', '.join(lost)}, fitted to unrounded weights: omni-rt fit-solver")
    return kept


def _spec(spec: GraphSpec, recipes: Recipes, stage: str) -> GraphSpec:
    recipe = recipes.by_stage[stage]
    if recipe.format is None:
        return replace(spec, fold_id=recipe.fold_id)
    return replace(
        spec,
        fold_id=recipe.fold_id,
        precision=recipe.format.precision,
        opset=max(recipe.format.opset, spec.opset),
    )
