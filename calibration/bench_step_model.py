"""A random step to be timed: written, observed and rounded like a real one, and calls of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from omni_rt.bench import example_inputs
from omni_rt.bundle import Bundle
from omni_rt.calibration.graph_writer import StageGraph
from omni_rt.calibration.observe import Observer
from omni_rt.calibration.random_stages import write_random_stages
from omni_rt.calibration.ranges import Ranges
from omni_rt.calibration.recipes import make_recipes
from omni_rt.engines import Array, Engine
from omni_rt.export.config import ModelConfig
from omni_rt.export.graphs import Stage
from omni_rt.export.random_checkpoint import sizes_for
from omni_rt.export.reference.engine import TorchEngine
from omni_rt.export.reference.from_bundle import stage_of
from omni_rt.export.tracing import StageSizes
from omni_rt.export.weight_file import WeightFile
from omni_rt.manifest import GraphSpec
from omni_rt.targets import target_named

Progress = Callable[[str], None]
Inputs = dict[str, Array]

_PAIR = ("context", "dit_step")  # folded together: factors of cross-attention go into the values
_TARGET = "cpu"
# Requests differ in all but their weights: some are observed, others measured.
_OBSERVED_CALLS, _MEASURED_CALLS = 8, 3
_TIMES = (0.98, 0.02)  # of the first and the last call


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCall:
    """One call of the step: what the unrounded reads, and what the folded one reads for it."""

    plain: Inputs
    folded: Inputs  # with values that are divided by what the step's matrices are multiplied by


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """A random step in both forms, on disk."""

    bundle: Bundle  # unrounded, of `context` and `dit_step`
    stage: Stage  # the step as a torch module
    rounded_path: Path
    rounded: GraphSpec
    calls: Sequence[StepCall]  # none of them observed


def make_step_model(
    folder: Path, config: ModelConfig, *, seed: int, outliers: bool, progress: Progress
) -> StepModel:
    """Write a random step and its rounded form into an empty folder.

    Raises ExportError if it cannot be written.
    """
    progress(f"tracing {config.depth} of {config.width}")
    source = folder / "unrounded"
    source.mkdir()
    manifest = write_random_stages(source, config, _PAIR, seed=seed, outliers=outliers)
    bundle = Bundle(source, manifest)
    sizes = StageSizes(model=sizes_for(config), thinker=None, synchformer=None)
    ranges = _observed(bundle, sizes, np.random.RandomState(seed), progress)
    format = target_named(_TARGET).formats["dit_step"]
    recipes = make_recipes(bundle, {"dit_step": format}, ranges, progress=progress)
    recipe = recipes.by_stage["dit_step"]
    assert recipe.format is not None
    progress("rounding")
    file = WeightFile(folder / "dit.data")
    try:
        StageGraph(bundle, "dit_step").write(recipe, file)
    finally:
        file.close()
    contexts = [
        TorchEngine(stage_of(bundle, "context", sizes, changed=changed))
        for changed in (lambda _, value: value, recipe.folds.folded)
    ]
    return StepModel(
        bundle=bundle,
        stage=stage_of(bundle, "dit_step", sizes),
        rounded_path=folder / "dit_step.onnx",
        rounded=replace(
            bundle.graph("dit_step"),
            path="dit_step.onnx",
            data=("dit.data",),
            precision=recipe.format.precision,
            opset=recipe.format.opset,
        ),
        calls=_calls(bundle, contexts, np.random.RandomState(seed + 1)),
    )


def _observed(
    bundle: Bundle, sizes: StageSizes, stream: np.random.RandomState, progress: Progress
) -> Ranges:
    """Ranges of both stages over random requests at all times."""
    observer = Observer(bundle, _PAIR, sizes)
    context, step = (observer.engine(bundle, name, None) for name in _PAIR)

    def run() -> None:
        for t in np.linspace(*_TIMES, _OBSERVED_CALLS):
            progress(f"observing t = {t:.2f}")
            cache = context.run(**_random_inputs(bundle, "context", stream))
            step.run(**_random_step_inputs(bundle, stream, t), **cache)

    observer.watch(run)
    return Ranges(layers=observer.seen(), inputs="random", graphs={}, done=())


def _calls(
    bundle: Bundle, contexts: Sequence[Engine], stream: np.random.RandomState
) -> list[StepCall]:
    calls = []
    for t in np.linspace(*_TIMES, _MEASURED_CALLS):
        given = _random_inputs(bundle, "context", stream)
        inputs = _random_step_inputs(bundle, stream, t)
        plain, folded = ({**inputs, **context.run(**given)} for context in contexts)
        calls.append(StepCall(plain=plain, folded=folded))
    return calls


def _random_inputs(bundle: Bundle, stage: str, stream: np.random.RandomState) -> Inputs:
    return dict(example_inputs(bundle.graph(stage).inputs, bundle.manifest.dims, stream))


def _random_step_inputs(bundle: Bundle, stream: np.random.RandomState, t: float) -> Inputs:
    """All but keys and values, which `context` makes: a guided step at time t, nothing hidden."""
    ports = [port for port in bundle.graph("dit_step").inputs if port.name[:2] not in ("k_", "v_")]
    inputs = dict(example_inputs(ports, bundle.manifest.dims, stream))
    inputs["t"] = np.full_like(inputs["t"], t)
    inputs["context_bias"] = np.zeros_like(inputs["context_bias"])
    return inputs
