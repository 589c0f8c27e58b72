"""How large a bundle of a configuration would be in a target's formats, from shapes alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from omni_rt.calibration.formats import FORMATS, Format
from omni_rt.calibration.recipes import is_rounded
from omni_rt.errors import ExportError
from omni_rt.export.config import read_config
from omni_rt.export.contract import STAGES, THINKER_STAGES
from omni_rt.export.graphs import Stage, tensors_of
from omni_rt.export.half_weights import SMALLEST
from omni_rt.export.random_checkpoint import sizes_for
from omni_rt.export.reference.synchformer import SynchformerSizes
from omni_rt.export.reference.thinker_config import ThinkerSizes
from omni_rt.export.tracing import StageSizes
from omni_rt.targets import Target

_SCALE_BYTES = 4
_SYNCHFORMER = SynchformerSizes(  # as published
    width=768,
    heads=12,
    depth=12,
    inner=3072,
    tubelets=8,
    patches=196,
    patch_px=16,
    tubelet_frames=2,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBytes:
    """Bytes of a stage's weights: unrounded in fp32, and in the target's formats."""

    stage: str
    format: str
    fp32: int
    rounded: int
    shared_with: str | None = None  # the stage whose file holds the same weights


def bundle_bytes(names: tuple[str, ...], sizes: StageSizes, target: Target) -> list[StageBytes]:
    """Each stage's share. What two stages hold alike is counted for the first of them."""
    counted: dict[tuple[str, str], str] = {}
    found = []
    for name in names:
        stage, format = sizes.stage(name), target.formats.get(name)
        fp32 = rounded = 0
        shared = None
        for key, shape in _weights(stage).items():
            values = math.prod(shape)
            own = _stored_bytes(stage, key, shape, None if format is None else FORMATS[format])
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


def configured_bytes(config: Path, thinker_config: Path | None, target: Target) -> list[StageBytes]:
    """Of every stage of a configuration, with Synchformer in its published size.

    Raises ExportError if a configuration cannot be read.
    """
    model, _ = read_config(config)
    thinker = None if thinker_config is None else _thinker(thinker_config)
    sizes = StageSizes(model=sizes_for(model), thinker=thinker, synchformer=_SYNCHFORMER)
    names = tuple(s for s in STAGES if thinker is not None or s not in THINKER_STAGES)
    return bundle_bytes(names, sizes, target)


def _thinker(path: Path) -> ThinkerSizes:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"thinker: cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise ExportError(f"thinker: {path} must hold an object")
    return ThinkerSizes.from_config(config)


def _weights(stage: Stage) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors_of(stage.module).items()}


def _stored_bytes(stage: Stage, key: str, shape: tuple[int, ...], format: Format | None) -> int:
    values = math.prod(shape)
    if format is not None and isinstance(_owner(stage, key), nn.Embedding):
        return values + _SCALE_BYTES * shape[0]
    if format is not None and _is_matrix(stage, key) and is_rounded(stage.official_name(key)):
        if format.block is None:
            return values + _SCALE_BYTES * shape[0]
        return values // 2 + _SCALE_BYTES * (values // format.block)
    is_vector = sum(size > 1 for size in shape) < 2
    return values * (4 if is_vector or values < SMALLEST else 2)


def _is_matrix(stage: Stage, key: str) -> bool:
    return key.endswith(".weight") and isinstance(_owner(stage, key), nn.Linear)


def _owner(stage: Stage, key: str) -> nn.Module:
    return stage.module.get_submodule(key.rpartition(".")[0])
