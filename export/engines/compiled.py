"""What a compiler says of the plan it made: its layers with their types, and its memory.

Two sources say the same: the verbose log of a build with detailed profiling verbosity, which needs
no GPU, and the engine inspector's JSON, which does. TensorRT-RTX lists a layer's weights as its
constants. TensorRT 10 has a field for their type (in older kernels), lists them as inputs, or tells
it by the name of the kernel alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omni_rt.errors import ExportError

_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), ")
_END_OF_TENSORS = re.compile(r"\](?:, (?:Constants|Outputs): \[|, TacticName: )")
_DATATYPE = re.compile(r"Datatype: ([^,}]+)")
_MEMORY = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_WEIGHTS = re.compile(r'Weights: \{"Type": "(\w+)"')
# Both operands 8 bits, as such kernels are named: …_gemm_i8f32_i8i32_f32_…
_INT8_KERNEL = re.compile(r"_i8[a-z]+\d+_i8i32_")
# Compilers' words for a type, also amid those for a format: "Row major linear FP16 format".
_TYPES = {
    "fp16": "Half", "half": "Half", "fp32": "Float", "float": "Float", "bf16": "BFloat16",
    "bfloat16": "BFloat16", "int8": "Int8", "fp8": "FP8", "int4": "Int4", "uint8": "UInt8",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledLayer:
    """One kernel or product of a plan."""

    name: str
    kind: str
    inputs: tuple[str, ...]  # types: "Half", "Float", "FP8", "Int8" …
    constants: tuple[str, ...]
    nodes: frozenset[str]  # names of the graph's nodes that went into it
    tactic: str = ""  # name of its kernel

    @property
    def multiplies_int8(self) -> bool:
        """Whether its kernel's name says that both operands of its product have 8 bits."""
        return _INT8_KERNEL.search(self.tactic) is not None

    @property
    def described(self) -> str:
        """The layer and what it reads, as one would say it."""
        operands = "+".join((*self.inputs, *self.constants)) or "nothing"
        return f"{self.name} ({self.kind} of {operands})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A plan as its compiler describes it."""

    layers: tuple[CompiledLayer, ...]
    activation_bytes: tuple[int, ...]  # by profile
    weight_bytes: int


def read_log(text: str) -> Compiled:
    """The layers and the memory that a verbose build log lists.

    Raises ExportError if it lists none.
    """
    lines = text.split("\n")  # and at nothing else: names of nodes may be parted by U+001E
    layers = tuple(layer for line in lines if (layer := _layer(line)) is not None)
    memory: dict[str, list[int]] = {"Activation": [], "Weights": []}
    for found in map(_MEMORY.search, lines):
        if found is not None:
            memory[found[1]].append(int(found[2]))
    if not layers or not memory["Activation"]:
        raise ExportError("the compiler's log lists no layers: nothing of this engine is proved")
    return Compiled(
        layers=layers,
        activation_bytes=tuple(memory["Activation"]),
        weight_bytes=max(memory["Weights"], default=0),
    )


def read_inspector(text: str) -> tuple[CompiledLayer, ...]:
    """The layers that an engine inspector lists as JSON.

    Raises ExportError if it lists none with their types: an engine that was built without detailed
    profiling verbosity.
    """
    try:
        listed = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"the engine inspector's answer cannot be read: {error}") from error
    layers = tuple(_inspected(entry) for entry in listed if isinstance(entry, Mapping))
    if not layers:
        raise ExportError("the engine inspector lists no layers: nothing of this engine is proved")
    return layers


def _layer(line: str) -> CompiledLayer | None:
    head = _LAYER.match(line)
    if head is None:
        return None
    return CompiledLayer(
        name=head["name"],
        kind=head["kind"],
        inputs=_types_of(line, "Inputs"),
        constants=(*_types_of(line, "Constants"), *map(_type, _WEIGHTS.findall(line))),
        nodes=frozenset(_ONNX_NODE.findall(line)),
        tactic=line.partition("TacticName: ")[2].partition(",")[0],
    )


def _types_of(line: str, part: str) -> tuple[str, ...]:
    """Types of the tensors in one part of a layer's line."""
    _, found, rest = line.partition(f"{part}: [")
    if not found:
        return ()
    tensors = _END_OF_TENSORS.split(rest, maxsplit=1)[0]
    return tuple(map(_type, _DATATYPE.findall(tensors)))


def _inspected(entry: Mapping[str, Any]) -> CompiledLayer:
    weights = entry.get("Weights")
    kinds = (_type(str(weights.get("Type"))),) if isinstance(weights, Mapping) else ()
    return CompiledLayer(
        name=str(entry.get("Name", "")),
        kind=str(entry.get("LayerType", "")),
        inputs=_inspected_types(entry.get("Inputs")),
        constants=(*_inspected_types(entry.get("Constants")), *kinds),
        nodes=frozenset(_ONNX_NODE.findall(str(entry.get("Metadata", "")))),
        tactic=str(entry.get("TacticName", "")),
    )


def _inspected_types(tensors: Any) -> tuple[str, ...]:
    if not isinstance(tensors, list):
        return ()
    return tuple(
        _type(str(tensor.get("Datatype", tensor.get("Format/Datatype", ""))))
        for tensor in tensors
        if isinstance(tensor, Mapping)
    )


def _type(text: str) -> str:
    """The type that a text names; the text itself if that is none of those known."""
    return next((_TYPES[w] for w in text.lower().split() if w in _TYPES), text.strip())
