"""Matrices, graphs and stages small enough to check laws on, and the miniature's own."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import Tensor

from omni_rt.bundle import Bundle
from omni_rt.calibration.graph_writer import Recipe, StageGraph
from omni_rt.calibration.groups import Group
from omni_rt.calibration.ranges import LayerRange
from omni_rt.calibration.smooth import Folds, Smoothing, by_matrix
from omni_rt.engines.ort import OrtEngine, session_entries
from omni_rt.export.build import export_bundle
from omni_rt.export.graphs import Stage, initialise
from omni_rt.export.miniature import checkpoint
from omni_rt.export.reference.from_bundle import sizes_of, stage_of
from omni_rt.export.thinker_stages import ThinkerLm
from omni_rt.export.tracing import StageSizes
from omni_rt.export.weight_file import WeightFile
from omni_rt.manifest import GraphSpec, Precision
from omni_rt.verify import stage_inputs
from tests.calibration.unrounded import unrounded
from tests.conftest import REPOSITORY

Arrays = Mapping[str, np.ndarray]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_outliers(x: Tensor, *, every: int = 16, by: float = 30.0) -> Tensor:
    """Some channels much larger than the others, as activations of transformers are."""
    x = x.clone()
    x[..., ::every] *= by
    return x


def range_of(rows: Tensor, *, output_max: float = 1.0) -> LayerRange:
    """As if these rows [n, K] were all that a matrix ever read."""
    return LayerRange(
        channel_max=rows.abs().amax(0).numpy(),
        low=rows.amin(0).numpy(),
        high=rows.amax(0).numpy(),
        rows=rows.numpy(),
        output_max=output_max,
    )


def smoothing(group: Group, factor: Tensor, *, largest: float = 8.0) -> Smoothing:
    """A choice made by hand."""
    return Smoothing(
        group=group,
        factor=factor,
        alpha=0.5,
        largest=largest,
        rows=torch.zeros(0, len(factor)),
        error=0.0,
    )


def random_factor(group: Group, width: int, *, seed: int) -> Tensor:
    """Factors [K] around 1, the same for channels that are tied to each other."""
    generator = torch.Generator().manual_seed(seed)
    free = 2.0 ** (4 * torch.rand(width // group.shared_by, generator=generator) - 2)
    if group.shared_by == 1:
        return free
    heads = free.unflatten(0, (-1, 1, group.head_width))
    return heads.expand(-1, group.shared_by, -1).flatten()


@cache
def the_miniature() -> Bundle:
    """What the packaged miniature is quantised from, exported once for all tests that ask."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    source = REPOSITORY / checkpoint.FOLDER
    options = checkpoint.export_options(source, Path(folder.name) / "unrounded")
    return Bundle.open(export_bundle(options))


@cache
def quick_miniature() -> Bundle:
    """The packaged miniature with its rounding undone, once for all tests that ask."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return unrounded(Path(folder.name) / "unrounded")


@cache
def miniature_sizes() -> StageSizes:
    return sizes_of(quick_miniature())


def miniature_stage(name: str, *, changed: Callable[[str, Tensor], Tensor] | None = None) -> Stage:
    bundle, sizes = quick_miniature(), miniature_sizes()
    if changed is None:
        return stage_of(bundle, name, sizes)
    return stage_of(bundle, name, sizes, changed=changed)


def parity_inputs(stage: str) -> dict[str, np.ndarray]:
    """What the miniature's parity file gives a stage."""
    given = stage_inputs(quick_miniature(), stage, quick_miniature().parity(stage))
    return {name: np.asarray(value) for name, value in given.items()}


def shared_heads_thinker(*, seed: int = 0) -> tuple[ThinkerLm, int]:
    """A speaking thinker of 6 query heads for 2 of keys, random all over, and its head width."""
    thinker = miniature_sizes().thinker
    assert thinker is not None
    sizes = replace(
        thinker, width=48, heads=6, kv_heads=2, head_width=8, inner=40, layers=2, vocabulary=31,
        rope_sections=(1, 1, 2),
    )  # fmt: skip
    module = ThinkerLm(sizes).eval().requires_grad_(False)
    for i, value in enumerate(module.parameters()):
        value.copy_(noise(*value.shape, seed=seed + i) / max(value.shape[-1], 8) ** 0.5 + 0.1)
    return module, sizes.head_width


def engine_of(path: Path, spec: GraphSpec, *, precision: str = "fp32") -> OrtEngine:
    return OrtEngine(path, replace(spec, precision=precision), threads=1)  # type: ignore[arg-type]


def write_stage(stage: str, recipe: Recipe, folder: Path) -> Path:
    """The miniature's stage written anew. Returns the graph's path."""
    file = WeightFile(folder / f"{stage}.data")
    try:
        StageGraph(quick_miniature(), stage).write(recipe, file)
    finally:
        file.close()
    return folder / f"{stage}.onnx"


def recipe_of(
    format: object, smoothings: Sequence[Smoothing] = (), *, fold_id: str = "test"
) -> Recipe:
    return Recipe(
        format=format,  # type: ignore[arg-type]
        smoothings=by_matrix(smoothings),
        folds=Folds(smoothings),
        fold_id=fold_id,
        attention={},
    )


class MatMulGraph:
    """x [n, K] → a product with each matrix [N, K], all reading x; weights in a file, for qdq."""

    def __init__(self, folder: Path, *matrices: Tensor) -> None:
        self.path, self.file = folder / "g.onnx", WeightFile(folder / "g.data")
        width = matrices[0].shape[1]
        x = ir.Value(name="x", shape=ir.Shape(["n", width]), type=ir.TensorType(ir.DataType.FLOAT))
        self.graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="g")
        for i, matrix in enumerate(matrices):
            weight = ir.Value(name=f"w{i}", shape=ir.Shape(matrix.T.shape))
            initialise(weight, matrix.T.contiguous(), self.file)
            self.graph.register_initializer(weight)
            node = ir.node("MatMul", [x, weight])
            out = node.outputs[0]
            out.name, out.dtype = f"y{i}", ir.DataType.FLOAT
            out.shape = ir.Shape(["n", matrix.shape[0]])
            self.graph.append(node)
            self.graph.outputs.append(out)

    def counts(self, op: str) -> int:
        return sum(node.op_type == op for node in self.graph)

    def run(self, x: Tensor, *, precision: Precision, fused: bool, opset: int = 20) -> list[Tensor]:
        """Products in ONNX Runtime. `fused`: as it is used; else every node as it is written."""
        self.graph.opset_imports[""] = opset
        session = self._session(precision, fused=fused)
        return [torch.from_numpy(y) for y in session.run(None, {"x": x.numpy()})]

    def operators_as_run(self, precision: Precision) -> list[str]:
        """What ONNX Runtime makes of the graph."""
        made = self.path.with_suffix(".optimised.onnx")
        self._session(precision, fused=True, write=made)
        return [node.op_type for node in ir.load(made).graph]

    def _session(
        self, precision: Precision, *, fused: bool, write: Path | None = None
    ) -> ort.InferenceSession:
        self.file._file.flush()
        ir.save(ir.Model(self.graph, ir_version=10), self.path)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        if write is not None:
            options.optimized_model_filepath = str(write)
        for entry in session_entries(precision):
            options.add_session_config_entry(entry, "1")
        if not fused:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return ort.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
