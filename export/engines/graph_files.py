"""A stage's graph as a compiler is to read it: in a folder of its own, beside its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from omni_rt.bundle import Bundle
from omni_rt.errors import ExportError
from omni_rt.export.engines.base_types import BaseChoice, base_type_of
from omni_rt.export.engines.narrowing import narrow
from omni_rt.export.engines.patterns import Expected, expected_of
from omni_rt.export.engines.tables import restore_before_lookup

# Made once for a request and read at every step: half the memory, half the traffic.
_NARROW_PORTS = {"dit_step": re.compile(r"[kv]_\d+|context_bias")}
_PORT_TYPES = ("float16",)  # NumPy, which fills them, has no bf16


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFile:
    """An ONNX file in 16 bits, and what has to be found in what is made of it."""

    path: Path
    expected: Expected
    base: BaseChoice


def prepare(bundle: Bundle, stage: str, folder: Path) -> GraphFile:
    """Write a stage's graph into an empty folder, its products in the base type that they fit.

    Weights are links to the bundle's files. Raises ExportError for activations that TensorRT does
    not take: a bundle that was quantised for processors.
    """
    spec = bundle.graph(stage)
    model = ir.load(bundle.graph_file(stage))
    expected = expected_of(model.graph)
    if any("UInt8" in product.activations for product in expected.products):
        raise ExportError(
            f"{stage} has unsigned activations, which TensorRT does not take: this bundle was "
            "quantised for processors; run omni-rt quantise --target on the unrounded bundle"
        )
    restore_before_lookup(model.graph)
    choice = base_type_of(bundle.manifest, stage, model.graph)
    wanted = _NARROW_PORTS.get(stage) if choice.base in _PORT_TYPES else None
    ports = [port.name for port in spec.inputs if wanted and wanted.fullmatch(port.name)]
    narrow(model.graph, choice.base, ports=ports)
    path = folder / f"{stage}.onnx"
    ir.save(model, path)
    for data in spec.data:
        source = bundle.path(data)
        (folder / source.name).symlink_to(source.resolve())
    return GraphFile(path=path, expected=expected, base=choice)
