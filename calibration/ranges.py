"""What was observed of the activations that matrices read: one set of numbers for every format."""

from __future__ import annotations

import contextlib
import json
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_rt.errors import ExportError
from omni_rt.whole_file import draft_of

Floats = NDArray[np.float32]
MOST_ROWS = 384  # of each activation: what rounding may lose is known by them
_TIMES_A_WRITE = 20  # observing goes on so many times as long as the last writing took
_FACTS = "facts"
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRange:
    """Of one matrix [N, K]: the activation it reads, and how large its output became."""

    channel_max: Floats  # [K], largest absolute value of each channel
    low: Floats  # [K], least value of each channel
    high: Floats  # [K], largest
    rows: Floats  # [n, K], a sample over cases, times and tokens; none unless it is the first of
    # those that read this activation
    output_max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Observed layers by stage and weight name, and what they were observed on."""

    layers: Mapping[str, Mapping[str, LayerRange]]
    inputs: str  # digest of the calibration set, and how its cases were run
    graphs: Mapping[str, str]  # stage → digest of the graph
    done: tuple[str, ...]  # names of the cases

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises RequestError if the disk refuses."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for stage, layers in self.layers.items():
            for name, layer in layers.items():
                arrays[f"{stage}/{name}/max"] = layer.channel_max
                arrays[f"{stage}/{name}/low"] = layer.low
                arrays[f"{stage}/{name}/high"] = layer.high
                arrays[f"{stage}/{name}/rows"] = layer.rows
                arrays[f"{stage}/{name}/output"] = np.array(layer.output_max, np.float32)
        facts = {"inputs": self.inputs, "graphs": dict(self.graphs), "done": self.done}
        arrays[_FACTS] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        with draft_of(path) as draft, draft.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Path) -> Ranges:
        """A file of observed ranges. Raises ExportError if it is none."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = dict(arrays)
            facts = json.loads(found.pop(_FACTS).tobytes())
            return cls(
                layers=_layers(found),
                inputs=facts["inputs"],
                graphs=facts["graphs"],
                done=tuple(facts["done"]),
            )
        except _DAMAGED as error:
            raise ExportError(f"{path} holds no observed ranges: {error}") from error


def _layers(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, dict[str, LayerRange]]:
    layers: dict[str, dict[str, LayerRange]] = {}
    for key in arrays:
        stem, _, leaf = key.rpartition("/")
        if leaf == "max":
            stage, _, name = stem.partition("/")
            layers.setdefault(stage, {})[name] = LayerRange(
                channel_max=np.asarray(arrays[key], np.float32),
                low=np.asarray(arrays[stem + "/low"], np.float32),
                high=np.asarray(arrays[stem + "/high"], np.float32),
                rows=np.asarray(arrays[stem + "/rows"], np.float32),
                output_max=float(arrays[stem + "/output"]),
            )
    return layers


@contextlib.contextmanager
def saving(path: Path) -> Iterator[Callable[[Ranges], None]]:
    """A function that puts ranges in place of those in a file: the last ones it was given, once
    this is left for whatever reason, and before that as often as a twentieth of the time allows.

    The file holds all ranges, some gigabytes of an official model's, so it is not written after
    every case.
    """
    last: list[Ranges] = []
    free_at = -math.inf

    def write() -> None:
        nonlocal free_at
        begun = time.monotonic()
        last[0].write(path)
        last.clear()  # not before: a writing that is interrupted is done again on the way out
        ended = time.monotonic()
        free_at = ended + _TIMES_A_WRITE * (ended - begun)

    def save(ranges: Ranges) -> None:
        last[:] = [ranges]
        if time.monotonic() >= free_at:
            write()

    try:
        yield save
    finally:
        if last:
            write()


def merged(
    before: Mapping[str, Mapping[str, LayerRange]] | None,
    now: Mapping[str, Mapping[str, LayerRange]],
) -> dict[str, dict[str, LayerRange]]:
    """Ranges of an interrupted run and of this one."""
    if before is None:
        return {stage: dict(layers) for stage, layers in now.items()}
    merged = {stage: dict(layers) for stage, layers in before.items()}
    for stage, layers in now.items():
        own = merged.setdefault(stage, {})
        for name, layer in layers.items():
            own[name] = joined([own[name], layer] if name in own else [layer])
    return merged


def joined(parts: Sequence[LayerRange]) -> LayerRange:
    """What a matrix read here and there, with rows of all."""
    if len(parts) == 1:
        return parts[0]
    return LayerRange(
        channel_max=np.max([part.channel_max for part in parts], axis=0),
        low=np.min([part.low for part in parts], axis=0),
        high=np.max([part.high for part in parts], axis=0),
        rows=sampled(np.concatenate([part.rows for part in parts])),
        output_max=max(part.output_max for part in parts),
    )


def sampled(rows: Floats) -> Floats:
    """At most `MOST_ROWS` of these rows, evenly over all."""
    if len(rows) <= MOST_ROWS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MOST_ROWS).round().astype(np.intp)]
