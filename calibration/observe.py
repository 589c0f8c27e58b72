"""Runs the calibration set through a session of torch stages and keeps what their matrices read.

A case goes the way of a user's request: senses, thinker, conditioners, every guided step, decoder.
The stages that are to be rounded run as torch modules whose `nn.Linear`s carry NVIDIA Model
Optimizer's quantizers, switched to collecting ranges only, so their outputs stay exact.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omni_rt.bundle import Bundle
from omni_rt.calibration.graph_writer import StageGraph
from omni_rt.calibration.inputs import CalibrationSet, Case
from omni_rt.calibration.ranges import MOST_ROWS, LayerRange, Ranges, merged, sampled, saving
from omni_rt.calibration.trajectories import Course, run_case
from omni_rt.engines import Engine
from omni_rt.engines.registry import engine_loader
from omni_rt.errors import ExportError
from omni_rt.export.graphs import Stage
from omni_rt.export.reference.engine import TorchEngine
from omni_rt.export.reference.from_bundle import sizes_of, stage_of
from omni_rt.export.tracing import StageSizes
from omni_rt.session import Session

Progress = Callable[[str], None]

_MOST_A_CALL, _LEAST_A_CALL = 96, 6  # rows; fewer of each only make room for more calls


class Observer:
    """Torch modules of some stages, watched. `engine` lends them to a session."""

    def __init__(self, bundle: Bundle, stages: Collection[str], sizes: StageSizes) -> None:
        self._stages = {name: stage_of(bundle, name, sizes) for name in stages}
        self._engines = {name: TorchEngine(stage) for name, stage in self._stages.items()}
        self._others = engine_loader("onnxruntime")
        self._rows: dict[tuple[str, str], _Rows] = {}
        for name, stage in self._stages.items():
            read = {names[0] for names in StageGraph(bundle, name).groups()}
            for path, layer in _linears(stage.module):
                keeps = stage.official_name(f"{path}.weight") in read
                rows = self._rows[name, path] = _Rows(seed=len(self._rows), keeps=keeps)
                layer.register_forward_pre_hook(rows)

    def engine(self, bundle: Bundle, stage: str, threads: int | None) -> Engine:
        """What a session is to run a stage with."""
        found = self._engines.get(stage)
        return self._others(bundle, stage, threads) if found is None else found

    def watch(self, run: Callable[[], None]) -> None:
        """Collect ranges while `run` uses the modules.

        Raises ExportError naming a layer that reads or makes what is not finite.
        """

        def guarded(_: nn.Module) -> None:
            self._guard()
            run()

        # what it says of optional packages and of itself is not our user's
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            import modelopt.torch.quantization as mtq

            modules = nn.ModuleDict({name: s.module for name, s in self._stages.items()})
            mtq.quantize(modules, _collecting(), forward_loop=guarded)

    def _guard(self) -> None:
        """Let the quantizers refuse what is not finite; their own check is an assertion."""
        for stage in self._stages.values():
            for path, layer in _linears(stage.module):
                for name in ("input_quantizer", "output_quantizer"):
                    quantizer: nn.Module = getattr(layer, name)
                    quantizer.register_forward_pre_hook(_finite(stage.official_name(path)))

    def seen(self) -> dict[str, dict[str, LayerRange]]:
        """Ranges so far, by stage and official weight name, of what has run."""
        return {name: dict(self._of_stage(stage)) for name, stage in self._stages.items()}

    def _of_stage(self, stage: Stage) -> list[tuple[str, LayerRange]]:
        found = []
        for path, layer in _linears(stage.module):
            rows = self._rows[stage.name, path]
            if not rows.calls:
                continue  # has not run yet
            channel_max = _largest(layer, "input_quantizer").reshape(-1)
            output_max = float(_largest(layer, "output_quantizer"))
            name = stage.official_name(f"{path}.weight")
            sample = rows.sample(len(channel_max))
            own = LayerRange(
                channel_max=channel_max,
                low=rows.low,
                high=rows.high,
                rows=sample,
                output_max=output_max,
            )
            found.append((name, own))
        return found


def _linears(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(path, m) for path, m in module.named_modules() if isinstance(m, nn.Linear)]


def _collecting() -> dict[str, Any]:
    """Model Optimizer's configuration: the largest input of each channel, the largest output."""
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            _of_linears("*input_quantizer", axis=-1),
            _of_linears("*output_quantizer", axis=None),
        ],
        "algorithm": "max",
    }


def _of_linears(name: str, *, axis: int | None) -> dict[str, Any]:
    cfg = {"num_bits": 8, "axis": axis}
    return {"quantizer_name": name, "parent_class": "nn.Linear", "cfg": cfg, "enable": True}


def _largest(layer: nn.Module, quantizer: str) -> np.ndarray:
    """What a quantizer's calibrator has seen, as float32."""
    own: Any = getattr(layer, quantizer)
    largest: Tensor = own._calibrator.compute_amax()
    return largest.detach().float().cpu().numpy()


def _finite(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if not torch.isfinite(arguments[0]).all():
            raise ExportError(f"calibration: NaN or infinite activations at {layer}")

    return hook


class _Rows:
    """A hook that keeps some rows of each call, and how low and high every channel of all went.

    All calls have the same chance to stay.

    Of matrices that read one activation only the first `keeps` any: they are the same.
    """

    def __init__(self, seed: int, *, keeps: bool) -> None:
        self.kept: list[Tensor] = []
        self.calls = 0
        self._extremes: Tensor | None = None  # [2, K]
        self._stream, self._keeps = np.random.RandomState(seed), keeps
        self._every, self._a_call = 1, _MOST_A_CALL

    def __call__(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.calls += 1
        rows = arguments[0].detach().flatten(0, -2)
        now = torch.stack([rows.amin(0), rows.amax(0)]).float().cpu()
        self._extremes = now if self._extremes is None else _wider(self._extremes, now)
        if not self._keeps or self.calls % self._every:
            return
        chosen = self._stream.choice(len(rows), min(self._a_call, len(rows)), replace=False)
        self.kept.append(rows[np.sort(chosen)].float().cpu().clone())
        if sum(map(len, self.kept)) > 2 * MOST_ROWS:
            self._thin_out()

    @property
    def low(self) -> np.ndarray:
        """[K]"""
        assert self._extremes is not None
        return self._extremes[0].numpy()

    @property
    def high(self) -> np.ndarray:
        """[K]"""
        assert self._extremes is not None
        return self._extremes[1].numpy()

    def _thin_out(self) -> None:
        """Keep about half: of the rows of each call, or of the calls if that leaves too few."""
        if self._a_call > _LEAST_A_CALL:
            self._a_call //= 2
            self.kept = [rows[::2] for rows in self.kept]
        else:
            self.kept, self._every = self.kept[::2], 2 * self._every

    def sample(self, width: int) -> np.ndarray:
        """[n, width], at most `MOST_ROWS`."""
        if not self.kept:
            return np.zeros((0, width), np.float32)
        return sampled(torch.cat(self.kept).numpy())


def _wider(one: Tensor, other: Tensor) -> Tensor:
    return torch.stack([torch.minimum(one[0], other[0]), torch.maximum(one[1], other[1])])


def observe(
    bundle: Bundle,
    inputs: CalibrationSet,
    stages: Collection[str],
    *,
    path: Path,
    sampled: int,
    steps: int,
    course: Course,
    progress: Progress,
) -> Ranges:
    """Ranges of these stages over the whole set, saved in `path` between cases.

    The first `sampled` cases of a task run through `steps` steps or up to four more, so that their
    times differ; the others through one, since what is new about them is their words. A student's
    all run through its own few. A file of an interrupted run on the same graphs and set is gone on
    with: errors and Ctrl-C lose the case that was running, a kill what was observed since the last
    writing.
    Raises ExportError if `path` is of other graphs, inputs or stages, and without cases.
    """
    if not inputs.cases:
        raise ExportError("calibration: there are no cases to observe")
    digests = {stage: bundle.graph_digest(stage) for stage in stages}
    observed_on = f"{inputs.digest}, {_followed(course, sampled=sampled, steps=steps)}"
    before = _before(path, observed_on, digests)
    rest = [
        (case, count)
        for case, count in zip(
            inputs.cases, _steps(inputs.cases, sampled=sampled, steps=steps), strict=True
        )
        if before is None or case.name not in before.done
    ]
    if before is not None and not rest:
        progress(f"ranges: {path.name} has all {len(before.done)} cases")
        return before
    observer = Observer(bundle, stages, sizes_of(bundle))
    done = list(before.done) if before is not None else []
    found: list[Ranges] = []

    def run() -> None:
        with (
            saving(path) as save,
            Session(bundle.directory, engine=observer.engine, allow_uncertified=True) as session,
        ):
            for case, count in rest:
                progress(f"observing {case.name} ({len(done) + 1} of {len(inputs.cases)})")
                run_case(session, case, plan=course.plan(count), cfg_scale=course.cfg_scale)
                done.append(case.name)
                layers = merged(None if before is None else before.layers, observer.seen())
                now = Ranges(layers=layers, inputs=observed_on, graphs=digests, done=tuple(done))
                save(now)
                found[:] = [now]

    observer.watch(run)
    return found[0]


def _followed(course: Course, *, sampled: int, steps: int) -> str:
    """How the cases were sampled, in words that tell one way from another."""
    if course.own_plan is not None:
        return f"all cases by {course.own_plan}, guidance {course.cfg_scale:g}"
    return f"{sampled} cases of {steps} steps, guidance {course.cfg_scale:g}"


def _steps(cases: Sequence[Case], *, sampled: int, steps: int) -> Iterator[int]:
    """How many steps each case is sampled in."""
    met: dict[str, int] = {}
    for i, case in enumerate(cases):
        met[case.task] = met.get(case.task, 0) + 1
        yield steps + i % 5 if met[case.task] <= sampled else 1


def _before(path: Path, inputs: str, graphs: Mapping[str, str]) -> Ranges | None:
    if not path.exists():
        return None
    before = Ranges.read(path)
    if before.graphs != graphs:
        raise ExportError(
            f"{path} was observed on other graphs than this bundle's: remove it, or give another"
        )
    if before.inputs != inputs:
        raise ExportError(
            f"{path} was observed on other inputs, or with other --sampled, --steps or "
            "--cfg-scale: remove it, or give another"
        )
    return before
