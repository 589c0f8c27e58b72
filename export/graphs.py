"""Stage → ONNX graph: trace without weights, then attach them one at a time from the checkpoint.

A stage is traced as a function of its weights, so the exporter sees only their shapes: nothing is
folded, renamed or merged, and no more than one weight is in memory while a graph is written.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from omni_rt.contract import Ports
from omni_rt.errors import ExportError
from omni_rt.export.checkpoint import LazyTensor
from omni_rt.export.half_weights import is_exact, narrowed
from omni_rt.export.surgery import (
    cast_to_float,
    fold_weight_transposes,
    matmul_biases,
    simplify,
)
from omni_rt.export.weight_file import WeightFile
from omni_rt.manifest import TensorSpec

OPSET = 20  # the newest that every back end takes (spec QUANTISATION §1, step 3)
_IR_TYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.float16: ir.DataType.FLOAT16,
    torch.int64: ir.DataType.INT64,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A graph to be: its module, its contract, and which weight each parameter is."""

    name: str
    module: nn.Module
    ports: Ports
    official_names: Mapping[str, str]  # first part of a parameter's path → official prefix
    listed: int = 0  # how many of the last inputs the module takes as one list
    examples: Mapping[str, int]  # sizes to trace the dynamic dimensions of the inputs with
    data_file: str  # where the weights go; stages may share one
    multiples: Mapping[str, int] = field(default_factory=dict)  # dynamic dimensions that divide
    derived: tuple[str, ...] = ()  # dynamic dimensions that others add up to

    def official_name(self, parameter: str) -> str:
        """`layers.0.x` → the official name of that parameter."""
        first, _, rest = parameter.partition(".")
        prefix = self.official_names.get(first, self.official_names.get("", "") + first)
        return f"{prefix}.{rest}" if rest else prefix

    def arguments(self, values: Sequence[Any]) -> list[Any]:
        """Values of the inputs, in the ports' order, as the module's arguments."""
        if not self.listed:
            return list(values)
        return [*values[: -self.listed], list(values[-self.listed :])]


class _Functional(nn.Module):
    """A stage as a function of its weights and its inputs."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.hidden = (stage.module,)  # in a tuple: not registered as a submodule

    def forward(self, weights: dict[str, Tensor], inputs: list[Any]) -> Any:
        return torch.func.functional_call(self.hidden[0], weights, tuple(inputs))


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and tables of a module by path."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _example(port: TensorSpec, sizes: Mapping[str, int]) -> Tensor:
    shape = [sizes[n] if isinstance(n, str) else n for n in port.shape]
    return torch.zeros(shape, dtype=getattr(torch, port.dtype))


def trace(stage: Stage) -> ir.Model:
    """The stage's graph, its weights still inputs, its dynamic dimensions named.

    Sizes to trace with must be unequal and larger than 1, so that none is taken for a constant or
    for another.
    """
    tensors = {
        name: torch.empty(t.shape, dtype=t.dtype) for name, t in tensors_of(stage.module).items()
    }
    dims = {name: _dimension(stage, name) for name in stage.examples}
    shapes = [
        {i: dims[n] for i, n in enumerate(p.shape) if isinstance(n, str)}
        for p in stage.ports.inputs
    ]
    with _quiet():
        program = torch.onnx.export(
            _Functional(stage).eval(),
            (
                tensors,
                stage.arguments([_example(port, stage.examples) for port in stage.ports.inputs]),
            ),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[*map(stage.official_name, tensors), *(p.name for p in stage.ports.inputs)],
            output_names=[port.name for port in stage.ports.outputs],
            dynamic_shapes=({name: {} for name in tensors}, stage.arguments(shapes)),
        )
    assert program is not None
    return program.model


def _dimension(stage: Stage, name: str) -> Any:
    if name in stage.derived:
        return torch.export.Dim.DYNAMIC
    multiple = stage.multiples.get(name, 1)
    unit = torch.export.Dim(name, min=1, max=(1 << 20) // multiple)
    return unit if multiple == 1 else multiple * unit


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress lines and its notes on optional packages are not our user's."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def finite(name: str, tensor: Tensor) -> Tensor:
    """The tensor itself. Raises ExportError if it holds NaN or infinite values."""
    if not torch.isfinite(tensor).all():
        raise ExportError(f"checkpoint: {name} holds NaN or infinite values")
    return tensor


def attach_weights(
    model: ir.Model, weights: Mapping[str, LazyTensor], file: WeightFile, *, half: bool = False
) -> int:
    """Turn weight inputs into initialisers whose values are written to `file`, one at a time.

    `half` stores them in 16 bits where they can be. Returns how many were rounded for that.
    Raises ExportError at the first value that is not finite.
    """
    graph, rounded = model.graph, 0
    names = {v.name for v in graph.inputs if v.name is not None and v.name in weights}
    transposed = fold_weight_transposes(graph, names)
    biases = matmul_biases(graph, names)
    for value in list(graph.inputs):
        if value.name is None or value.name not in names:
            continue
        graph.inputs.remove(value)
        if not value.uses():
            continue
        source = weights[value.name]
        tensor = whole = finite(value.name, source.load())
        if half:
            tensor = narrowed(whole, may_round=not source.computed)
            rounded += not is_exact(tensor, whole)
        if value.name in transposed:
            tensor = tensor.T
        elif value.name in biases:
            tensor = tensor[None, None]
        initialise(value, tensor.contiguous(), file)
        graph.register_initializer(value)
        if tensor.dtype != whole.dtype:
            cast_to_float(graph, value)
    return rounded


def initialise(
    value: ir.Value, tensor: Tensor, file: WeightFile, *, stored: ir.DataType | None = None
) -> None:
    """Write a weight and say in the graph where it lies, and as what (`stored`, else its type).

    Integers of 4 bits are stored two to a byte, the first in the lower half.
    """
    assert value.name is not None
    assert value.shape is not None
    assert tuple(tensor.shape) == tuple(value.shape)
    stored = _IR_TYPES[tensor.dtype] if stored is None else stored
    place = file.add(_packed(tensor) if stored == ir.DataType.INT4 else tensor)
    value.dtype = stored
    value.const_value = ir.ExternalTensor(
        file.path.name,
        place.offset,
        place.length,
        stored,
        shape=value.shape,
        name=value.name,
        base_dir=file.path.parent,
    )


def _packed(values: Tensor) -> Tensor:
    """Integers from −8 to 7 as bytes."""
    pairs = values.flatten().view(torch.uint8) & 0xF
    if len(pairs) % 2:
        pairs = torch.nn.functional.pad(pairs, (0, 1))
    return pairs[0::2] | pairs[1::2] << 4


def set_ports(model: ir.Model, stage: Stage) -> None:
    """Write the contract's shapes over the symbols that tracing derived."""
    graph = model.graph
    for values, ports in ((graph.inputs, stage.ports.inputs), (graph.outputs, stage.ports.outputs)):
        if [value.name for value in values] != [port.name for port in ports]:
            raise ExportError(
                f"{stage.name}: traced {[v.name for v in values]}, not {[p.name for p in ports]}"
            )
        for value, port in zip(values, ports, strict=True):
            value.shape = ir.Shape(port.shape)


def traced_bytes(stage: Stage) -> bytes:
    """`trace`, as a serialised model that another process can hand over."""
    data: bytes = ir.to_proto(trace(stage)).SerializeToString()
    return data


def write_graph(
    stage: Stage,
    traced: bytes,
    weights: Mapping[str, LazyTensor],
    *,
    file: WeightFile,
    fold_id: str,
    half: bool = False,
) -> int:
    """Write `<name>.onnx` of a traced stage beside `file`, its weights into `file`.

    Returns how many weights were rounded to be stored in 16 bits (none unless `half`).
    """
    model = ir.from_proto(onnx.ModelProto.FromString(traced))
    rounded = attach_weights(model, weights, file, half=half)
    simplify(model)
    set_ports(model, stage)
    model.graph.name = stage.name
    model.producer_name, model.producer_version = "omni_rt", None
    model.metadata_props["omni_rt.stage"] = stage.name
    model.metadata_props["omni_rt.fold_id"] = fold_id
    ir.save(model, file.path.parent / f"{stage.name}.onnx")
    return rounded
