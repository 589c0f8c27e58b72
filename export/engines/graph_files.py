"""A stage's graph as a compiler is to read it: in a folder of its own, beside its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from omni_rt.bundle import Bundle
from omni_rt.errors import ExportError
from omni_rt.export.engines.narrowing import narrow
from omni_rt.export.engines.patterns import Expected, expected_of
from omni_rt.export.engines.tables import restore_before_lookup
from omni_rt.manifest import BaseType

# What the original ran its parts in; what is computed once, on few numbers, stays in fp32.
BASE_TYPES: Mapping[str, BaseType] = {
    "thinker_embed": "float32",
    "audio_tower": "bfloat16",
    "vision_tower": "bfloat16",
    "thinker_cond": "bfloat16",
    "thinker_lm": "bfloat16",
    "synchformer": "float16",
    "transcript": "float32",
    "context": "float16",
    "signal": "float32",
    "dit_step": "float16",
    "vae_decoder": "float16",
    "vae_encoder": "float16",
}
# Made once for a request and read at every step: half the memory, half the traffic.
_NARROW_PORTS = {"dit_step": re.compile(r"[kv]_\d+|context_bias")}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFile:
    """An ONNX file in 16 bits, and what has to be found in what is made of it."""

    path: Path
    expected: Expected


def prepare(bundle: Bundle, stage: str, folder: Path) -> GraphFile:
    """Write a stage's graph into an empty folder, its products in the stage's base type.

    Weights are links to the bundle's files. Raises ExportError for activations that TensorRT does
    not take: a bundle that was quantised for processors.
    """
    spec = bundle.graph(stage)
    model = ir.load(bundle.path(spec.path))
    expected = expected_of(model.graph)
    if any("UInt8" in product.activations for product in expected.products):
        raise ExportError(
            f"{stage} has unsigned activations, which TensorRT does not take: this bundle was "
            "quantised for processors; run omni-rt quantise --target on the unrounded bundle"
        )
    restore_before_lookup(model.graph)
    wanted = _NARROW_PORTS.get(stage)
    ports = [port.name for port in spec.inputs if wanted and wanted.fullmatch(port.name)]
    narrow(model.graph, BASE_TYPES[stage], ports=ports)
    path = folder / f"{stage}.onnx"
    ir.save(model, path)
    for data in spec.data:
        source = bundle.path(data)
        (folder / source.name).symlink_to(source.resolve())
    return GraphFile(path=path, expected=expected)
