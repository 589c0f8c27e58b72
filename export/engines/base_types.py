"""Which 16-bit type a stage's products are computed in: what its values are known to need.

fp16 has three bits more than bf16, but ends at 65504. What calibration saw of a stage's products,
and the weights themselves, decide whether they fit; where nothing was seen, the original's own
choice stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from omni_rt.base_types import FP16_MAX, USUAL, outgrows_fp16
from omni_rt.manifest import BaseType, Manifest

_FLOATS = (ir.DataType.FLOAT, ir.DataType.BFLOAT16)  # fp16 holds what is stored in fp16


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseChoice:
    """The type, and why: empty where it is the usual one and known to do."""

    base: BaseType
    reason: str = ""


def base_type_of(manifest: Manifest, stage: str, graph: ir.Graph) -> BaseChoice:
    """The type that a stage's products are computed in.

    `graph` is the stage's, with its weights.
    """
    usual = USUAL[stage]
    if usual != "float16":
        return BaseChoice(base=usual)
    seen = _observed(manifest, stage)
    if seen is not None and outgrows_fp16(stage, seen):
        return BaseChoice(
            base="bfloat16", reason=f"products reach {seen:.3g}, fp16 ends at {FP16_MAX:g}"
        )
    for name, largest in _weights(graph):
        if largest > FP16_MAX:
            return BaseChoice(
                base="bfloat16", reason=f"{name} holds {largest:.3g}, fp16 ends at {FP16_MAX:g}"
            )
    return BaseChoice(base=usual, reason="" if seen is not None else "no products were observed")


def _observed(manifest: Manifest, stage: str) -> float | None:
    rounding = None if manifest.certificate is None else manifest.certificate.rounding
    return None if rounding is None else rounding.largest.get(stage)


def _weights(graph: ir.Graph) -> Iterator[tuple[str, float]]:
    """Stored floats that 16 bits may not hold, with their largest absolute values."""
    for name, value in graph.initializers.items():
        stored = value.const_value
        if stored is not None and stored.dtype in _FLOATS and stored.size:
            yield name, float(np.abs(stored.numpy().astype(np.float32)).max())
