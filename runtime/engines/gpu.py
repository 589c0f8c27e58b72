"""Engines that run on an NVIDIA GPU: on which one, how their loop is captured, what they take.

A `GpuLoader` is a `LoadEngine` that can be asked and told so; `Session(device=…)` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from omni_rt.bundle import Bundle
from omni_rt.engines import Engine
from omni_rt.errors import RequestError
from omni_rt.external_data import stored_values
from omni_rt.manifest import Precision

CudaGraph = Literal["step", "chain"]
KEPT_SHAPES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Where a session's stages run, and how its loop is captured (see `omni_rt.cuda_loop`)."""

    ordinal: int = 0  # as CUDA counts the devices that are visible
    graph: CudaGraph = "step"
    kept: int = KEPT_SHAPES  # shapes of requests whose graphs are kept
    stream: int = 0  # the loop's: a cudaStream_t of the caller's, or 0 for one of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class StageNeeds:
    """Bytes of a GPU's memory: a stage's weights, and what its runs take beside them."""

    weights: int
    least: int = 0  # of the smallest run that it was built for
    most: int = 0  # of the largest


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """A GPU before anything is loaded, and what each stage of a bundle would take of it."""

    name: str
    free_bytes: int
    total_bytes: int
    stages: Mapping[str, StageNeeds]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLoader:
    """Loads stages onto a GPU: what an engine of that kind offers under its name."""

    name: str
    load: Callable[[Bundle, str, int | None, Gpu], Engine]
    look: Callable[[Bundle, int], GpuMemory]  # of the GPU with that ordinal; raises EngineError
    captures: bool = True  # whether its step runs in the CUDA loop
    gpu: Gpu = Gpu()

    def __call__(self, bundle: Bundle, stage: str, threads: int | None, /) -> Engine:
        return self.load(bundle, stage, threads, self.gpu)

    def memory(self, bundle: Bundle) -> GpuMemory:
        """Free memory, and what stages take. Raises EngineError without the GPU or its driver."""
        return self.look(bundle, self.gpu.ordinal)

    def on(self, gpu: Gpu) -> GpuLoader:
        """The same engine there. Raises RequestError if it cannot run so."""
        if gpu.graph == "chain" and not self.captures:
            raise RequestError(f"engine {self.name!r} captures no graphs: leave cuda_graph out")
        return replace(self, gpu=gpu)


def ordinal_of(device: object) -> int | None:
    """The GPU that "cuda" or "cuda:N" names; None for "auto" and "cpu".

    Raises RequestError for anything else.
    """
    if device in ("auto", "cpu"):
        return None
    found = re.fullmatch(r"cuda(?::([0-9]{1,3}))?", device) if isinstance(device, str) else None
    if found is None:
        raise RequestError(f"device must be auto, cpu, cuda or cuda:N, got {device!r:.80}")
    return int(found[1] or 0)


def check_gpu(gpu: Gpu) -> None:
    """Raise RequestError for options that are none."""
    if gpu.graph not in get_args(CudaGraph):
        raise RequestError(f"cuda_graph must be one of {get_args(CudaGraph)}, got {gpu.graph!r}")
    if type(gpu.kept) is not int or gpu.kept < 1:
        raise RequestError(f"cuda_shapes must be a positive integer, got {gpu.kept!r}")
    if type(gpu.stream) is not int or gpu.stream < 0:
        raise RequestError(f"cuda_stream must be a stream's address or 0, got {gpu.stream!r}")


def weights_alone(bundle: Bundle, bytes_of: Mapping[Precision, float]) -> dict[str, StageNeeds]:
    """Stages by what their weights take where a number of a graph's precision takes so much.

    What passes between layers is not known of libraries that do not compile ahead of time.
    """
    return {
        stage: StageNeeds(
            weights=round(stored_values(bundle.graph_file(stage)) * bytes_of[graph.precision])
        )
        for stage, graph in bundle.manifest.graphs.items()
    }
