"""How large a bundle of a configuration would be in a target's formats, from shapes alone.

Counted are weights and the scales that are stored with them; not graph files (.onnx), the padding
between weights, text and parity files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from omni_rt.calibration.formats import FORMATS, Format
from omni_rt.calibration.recipes import is_rounded
from omni_rt.export.configured import configured_sizes, configured_stages
from omni_rt.export.graphs import Stage, tensors_of
from omni_rt.export.half_weights import SMALLEST
from omni_rt.export.tracing import StageSizes
from omni_rt.targets import Target

_SCALE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBytes:
    """Bytes of a stage's weights: unrounded in fp32, and in the target's formats."""

    stage: str
    format: str
    fp32: int
    rounded: int
    shared_with: str | None = None  # the stage whose file holds the same weights


def bundle_bytes(
    names: tuple[str, ...], sizes: StageSizes, target: Target, *, half: bool = True
) -> list[StageBytes]:
    """Each stage's share. What two stages hold alike is counted for the first of them.

    half: what is not rounded is in 16 bits where it can be, as in the bundle that is quantised.
    """
    counted: dict[tuple[str, str], str] = {}
    found = []
    for name in names:
        stage, format = sizes.stage(name), target.formats.get(name)
        fp32 = rounded = 0
        shared = None
        for key, shape in _weights(stage).items():
            values = math.prod(shape)
            known = None if format is None else FORMATS[format]
            own = _stored_bytes(stage, key, shape, known, half=half)
            first = counted.setdefault((stage.official_name(key), format or ""), name)
            if first != name:
                shared = first
                continue
            fp32 += 4 * values
            rounded += own
        found.append(
            StageBytes(
                stage=name,
                format=format or "as it is",
                fp32=fp32,
                rounded=rounded,
                shared_with=shared,
            )
        )
    return found


def configured_bytes(
    config: Path, thinker_config: Path | None, target: Target, *, half: bool = True
) -> list[StageBytes]:
    """Of every stage of a configuration, with Synchformer in its published size.

    Raises ExportError if a configuration cannot be read.
    """
    sizes = configured_sizes(config, thinker_config)
    return bundle_bytes(configured_stages(sizes), sizes, target, half=half)


def _weights(stage: Stage) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors_of(stage.module).items()}


def _stored_bytes(
    stage: Stage, key: str, shape: tuple[int, ...], format: Format | None, *, half: bool
) -> int:
    values = math.prod(shape)
    if format is not None and isinstance(_owner(stage, key), nn.Embedding):
        return values + _SCALE_BYTES * shape[0]
    if format is not None and _is_matrix(stage, key) and is_rounded(stage.official_name(key)):
        return format.stored_bytes(*shape)
    is_vector = sum(size > 1 for size in shape) < 2
    return values * (2 if half and not is_vector and values >= SMALLEST else 4)


def _is_matrix(stage: Stage, key: str) -> bool:
    return key.endswith(".weight") and isinstance(_owner(stage, key), nn.Linear)


def _owner(stage: Stage, key: str) -> nn.Module:
    return stage.module.get_submodule(key.rpartition(".")[0])
