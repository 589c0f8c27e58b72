"""A step of any size with random rounded weights: for compilers, whose work depends on sizes alone.

The graph is traced and rounded by the code that makes real bundles; only the numbers are made up.
A full-size one takes 12 GB of disk while it is written (6 GB of 16-bit weights, then the rounded).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from omni_rt.calibration.attention import round_attention
from omni_rt.calibration.formats import FORMATS, Format
from omni_rt.calibration.qdq import (
    read_together,
    readers,
    round_activation,
    store_as_it_is,
    store_rounded,
    without_weight_casts,
)
from omni_rt.calibration.recipes import is_rounded
from omni_rt.calibration.rounding import rounded_matrix
from omni_rt.export.checkpoint import LazyTensor
from omni_rt.export.config import ModelConfig
from omni_rt.export.contract import dims_of, model_stage
from omni_rt.export.graphs import Stage, attach_weights, set_ports, tensors_of, trace
from omni_rt.export.pack import list_files, new_directory
from omni_rt.export.random_checkpoint import random_tensor, sizes_for
from omni_rt.export.surgery import simplify
from omni_rt.export.weight_file import WeightFile
from omni_rt.manifest import SCHEMA, Dims, GraphSpec, Manifest, TextSpec, write_manifest
from omni_rt.targets import Target

_LARGEST = 8.0  # of every activation, as made up as the weights
_STAGE = "dit_step"


def write_random_step(
    out: Path, config: ModelConfig, target: Target, *, depth: int | None = None, seed: int = 0
) -> Path:
    """Write a bundle with one stage, `dit_step`, of a configuration's sizes. Returns its path.

    It is uncertified: what it computes means nothing. Raises ExportError if it cannot be written.
    """
    sizes = sizes_for(replace(config, depth=depth or config.depth))
    stage, format = model_stage(_STAGE, sizes), FORMATS[target.formats[_STAGE]]
    dims = dims_of(sizes)
    values = sum(tensor.numel() for tensor in tensors_of(stage.module).values())
    with new_directory(out, needed_bytes=4 * values, overwrite=False) as draft:
        (draft / "graphs").mkdir()
        _write_graph(draft / "graphs", stage, format, sizes.dit.rotary_width, seed)
        np.savez(
            draft / "constants.npz",
            empty_transcript=np.zeros((1, dims.transcript_tokens, dims.cond_width), np.float32),
        )
        spec = GraphSpec(
            path=f"graphs/{_STAGE}.onnx",
            data=(f"graphs/{stage.data_file}",),
            precision=format.precision,
            opset=format.opset,
            fold_id="random",
            inputs=stage.ports.inputs,
            outputs=stage.ports.outputs,
        )
        write_manifest(_manifest(draft, dims, spec, seed), draft)
    return out


def _write_graph(folder: Path, stage: Stage, format: Format, rotary_width: int, seed: int) -> None:
    """Trace the stage, give it weights, and round it: `dit_step.onnx` and its data file."""
    model = trace(stage)
    unrounded = WeightFile(folder / "unrounded.data")
    try:
        attach_weights(model, _random_weights(stage, rotary_width, seed), unrounded, half=True)
    finally:
        unrounded.close()
    file = WeightFile(folder / stage.data_file)
    try:
        _round(model.graph, format, file)
    finally:
        file.close()
    unrounded.path.unlink()
    model.opset_imports[""] = format.opset
    simplify(model)
    set_ports(model, stage)
    model.graph.name = stage.name
    ir.save(model, folder / f"{stage.name}.onnx")


def _random_weights(stage: Stage, rotary_width: int, seed: int) -> Mapping[str, LazyTensor]:
    def lazy(name: str, shape: tuple[int, ...]) -> LazyTensor:
        def load() -> Tensor:
            return random_tensor(name, shape, seed=seed, rotary_width=rotary_width)

        return LazyTensor(shape=shape, dtype="float32", load=load)

    return {
        (name := stage.official_name(own)): lazy(name, tuple(tensor.shape))
        for own, tensor in tensors_of(stage.module).items()
    }


def _round(graph: ir.Graph, format: Format, file: WeightFile) -> None:
    """Round what a real step's recipe rounds, one weight in memory at a time."""
    without_weight_casts(graph)
    stored = list(graph.initializers.values())
    if format.activation == "fp8":
        made = {reader.name: _LARGEST for reader in readers(graph)}
        given = {port.name: _LARGEST for port in graph.inputs if port.name is not None}
        round_attention(graph, {**made, **given}, format)
    rounded: set[str] = set()
    for names in read_together(graph):
        if is_rounded(names[0]):
            first = next(reader for reader in readers(graph) if reader.name == names[0])
            round_activation(graph, first.activation, _LARGEST, format)
            rounded.update(names)
    for reader in readers(graph):
        if reader.name in rounded:
            matrix = _value(reader.weight).float().T  # stored [K, N]
            store_rounded(graph, reader, rounded_matrix(matrix, format), format, file)
    for weight in stored:
        if weight.name not in rounded and isinstance(weight.const_value, ir.ExternalTensor):
            store_as_it_is(graph, weight, _value(weight), file)


def _value(weight: ir.Value) -> Tensor:
    """A weight as it is stored."""
    assert isinstance(weight.const_value, ir.ExternalTensor)
    array = weight.const_value.numpy()
    if weight.const_value.dtype == ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _manifest(draft: Path, dims: Dims, spec: GraphSpec, seed: int) -> Manifest:
    return Manifest(
        schema=SCHEMA,
        name="random-step",
        dims=dims,
        graphs={_STAGE: spec},
        engines={},
        text=TextSpec(tokenizer=None, prompts=None, vocabulary=None, special_ids=None),
        constants="constants.npz",
        parity={},
        plans={},
        default_plan="euler-100",
        files=list_files(draft),
        weights_licence="none: random numbers",
        provenance={"random_seed": seed},
    )
