"""One step in every engine that a processor has, side by side in one run: times and errors.

The weights are random, with outlier channels; all else is as in a real bundle: traced, observed,
smoothed, rounded and run by the same code. Without trained weights, errors rank formats and
engines; they do not predict what is heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from omni_rt.calibration.bench_step_model import Inputs, StepCall, StepModel, make_step_model
from omni_rt.compare_steps import timed_turn
from omni_rt.engines import BoundEngine, Engine
from omni_rt.engines.openvino import OpenVinoEngine
from omni_rt.engines.ort import OrtEngine
from omni_rt.engines.processor import processor_flags, processor_info
from omni_rt.export.config import ModelConfig
from omni_rt.export.reference.device_step import DeviceStep
from omni_rt.export.reference.engine import TorchEngine
from omni_rt.export.stages import DitStep
from omni_rt.latency import this_device
from omni_rt.manifest import Dims, Figure
from omni_rt.metrics import rel_l2
from omni_rt.targets import rounded_bound
from omni_rt.timing import Timing

Progress = Callable[[str], None]

ORT_FP32, ORT_INT8 = "ONNX Runtime, fp32", "ONNX Runtime, INT8"
TORCH_FP32, TORCH_BF16 = "torch, fp32", "torch, bf16"
OPENVINO_BF16, OPENVINO_INT8 = "OpenVINO, bf16", "OpenVINO, INT8 and bf16"

# Goals on a processor with VNNI and AMX. On two cores of one, a block took ONNX Runtime 142 ms in
# INT8 and 645 in fp32, and torch 123 in bf16 (spec QUANTISATION §3).
_FASTER_THAN_FP32 = 4.0
_OF_TORCH_BF16 = 1.25
# What such products are made of, by Linux's names
_INSTRUCTIONS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """One engine: its time for the whole stack, its errors (relative L2) against torch in fp32."""

    name: str
    computes: str  # where nothing is rounded: a processor may lack what was asked for
    time: Timing  # seconds of a guided step, in turns
    ratio: float  # ONNX Runtime's median in fp32 over this one's
    block_rel_l2: float  # of a step of one block
    stack_rel_l2: float  # of the whole one


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBench:
    """What was measured, and where."""

    device: str
    instructions: tuple[str, ...]
    threads: int
    width: int
    depth: int
    tokens: int  # of each of two rows
    seed: int
    outliers: bool
    rivals: tuple[Rival, ...]
    figures: Mapping[str, Figure]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contender:
    engine: Engine
    computes: str
    folded: bool = False  # it reads values that are divided by its matrices' factors

    def inputs(self, call: StepCall) -> Inputs:
        return call.folded if self.folded else call.plain


def bench_step(
    config: ModelConfig,
    *,
    depth: int,
    runs: int,
    threads: int,
    seed: int = 0,
    outliers: bool = True,
    progress: Progress = lambda _: None,
) -> StepBench:
    """Build a step of `depth` blocks of the configuration's width, and one of a single block.

    Engines take turns: a pause, a step that is not timed, and one that is. What was written is
    removed again. Raises ExportError if it cannot be written, EngineError if an engine fails.
    """
    torch.set_num_threads(threads)
    build = _Build(config=config, threads=threads, seed=seed, outliers=outliers, progress=progress)
    with build.contenders(depth) as (stack, contenders):
        together = _errors(contenders, stack.calls, progress)
        dims = stack.bundle.manifest.dims
        progress("timing")
        times = _times(contenders, stack.calls[0], runs)
        computes = {name: contender.computes for name, contender in contenders.items()}
    alone, one = together, dims
    if depth > 1:
        with build.contenders(1) as (block, contenders):
            alone = _errors(contenders, block.calls, progress)
            one = block.bundle.manifest.dims
    rivals = {
        name: Rival(
            name=name,
            computes=computes[name],
            time=time,
            ratio=times[ORT_FP32].p50_s / time.p50_s,
            block_rel_l2=alone[name],
            stack_rel_l2=together[name],
        )
        for name, time in times.items()
    }
    flags = processor_flags(processor_info())
    return StepBench(
        device=this_device(),
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags),
        threads=threads,
        width=dims.width,
        depth=depth,
        tokens=dims.prepend_tokens + dims.latent_frames,
        seed=seed,
        outliers=outliers,
        rivals=tuple(rivals.values()),
        figures=_figures(rivals, one, dims),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Build:
    """Steps of one configuration that differ in depth."""

    config: ModelConfig
    threads: int
    seed: int
    outliers: bool
    progress: Progress

    @contextmanager
    def contenders(self, depth: int) -> Iterator[tuple[StepModel, dict[str, _Contender]]]:
        """A step on disk, and all that can run it, the reference first."""
        with TemporaryDirectory() as folder:
            model = make_step_model(
                Path(folder),
                replace(self.config, depth=depth),
                seed=self.seed,
                outliers=self.outliers,
                progress=self.progress,
            )
            self.progress("loading")
            yield model, _contenders(model, self.threads)


def _contenders(model: StepModel, threads: int) -> dict[str, _Contender]:
    spec = model.bundle.graph("dit_step")
    path = model.bundle.graph_file("dit_step")
    assert isinstance(model.stage.module, DitStep)
    half = TorchEngine(replace(model.stage, module=DeviceStep(model.stage.module)))
    found = {
        TORCH_FP32: _Contender(engine=TorchEngine(model.stage), computes="f32"),
        TORCH_BF16: _Contender(engine=half, computes="bf16"),
        ORT_FP32: _Contender(engine=OrtEngine(path, spec, threads=threads), computes="f32"),
        ORT_INT8: _Contender(
            engine=OrtEngine(model.rounded_path, model.rounded, threads=threads),
            computes="f32",
            folded=True,
        ),
    }
    if find_spec("openvino") is not None:
        plain = OpenVinoEngine(path, spec, threads=threads, precision="bf16")
        rounded = OpenVinoEngine(
            model.rounded_path, model.rounded, threads=threads, precision="bf16"
        )
        found[OPENVINO_BF16] = _Contender(engine=plain, computes=plain.precision)
        found[OPENVINO_INT8] = _Contender(engine=rounded, computes=rounded.precision, folded=True)
    return found


def _errors(
    contenders: Mapping[str, _Contender], calls: Sequence[StepCall], progress: Progress
) -> dict[str, float]:
    """Relative L2 of every velocity over all calls, against torch in fp32."""

    def velocities(name: str) -> np.ndarray:
        progress(f"errors: {name}")
        contender = contenders[name]
        found = [contender.engine.run(**contender.inputs(call))["v"] for call in calls]
        return np.concatenate([v.ravel() for v in found])

    made = {name: velocities(name) for name in contenders}
    return {name: rel_l2(own, made[TORCH_FP32]) for name, own in made.items()}


def _times(contenders: Mapping[str, _Contender], call: StepCall, runs: int) -> dict[str, Timing]:
    bound = {name: _bound(own.engine, own.inputs(call)) for name, own in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in bound}
    for _ in range(runs):
        for name, engine in bound.items():
            seconds[name].append(timed_turn(engine))
    return {name: Timing.of(taken) for name, taken in seconds.items()}


def _bound(engine: Engine, inputs: Inputs) -> BoundEngine:
    buffers = {name: np.require(value, requirements=["C", "W"]) for name, value in inputs.items()}
    return engine.bind({**buffers, "v": np.empty_like(buffers["x"])})


def _figures(rivals: Mapping[str, Rival], block: Dims, stack: Dims) -> dict[str, Figure]:
    """What INT8 is held to: times beside other engines', and the certificate's bounds."""
    rounded, half = rivals[ORT_INT8], rivals[TORCH_BF16]
    goal = "a goal for two cores with VNNI and AMX"
    found = {
        "times faster than ONNX Runtime in fp32": Figure(
            value=rounded.ratio, bound=_FASTER_THAN_FP32, at_least=True, origin=goal
        ),
        "of torch's time in bf16": Figure(
            value=rounded.time.p50_s / half.time.p50_s, bound=_OF_TORCH_BF16, origin=goal
        ),
    }
    for name, error, dims in (
        ("relative L2 of a block", rounded.block_rel_l2, block),
        (f"relative L2 of {stack.depth} blocks", rounded.stack_rel_l2, stack),
    ):
        bound = rounded_bound("int8", "dit_step", dims)
        assert bound is not None
        found[name] = Figure(value=error, bound=bound[0], origin=bound[1])
    return found
