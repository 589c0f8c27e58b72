"""Whether a bundle fits into a GPU's free memory: estimated and told before anything is loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from omni_rt.bundle import Bundle
from omni_rt.engine_pool import Memory, together
from omni_rt.engines.gpu import GpuLoader, GpuMemory
from omni_rt.engines.registry import LoadEngine
from omni_rt.errors import EngineError

_log = logging.getLogger("omni_rt")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuEstimate:
    """What a session takes of a GPU, in either memory mode, and what is free. Bytes."""

    device: str
    memory: Memory
    free_bytes: int
    total_bytes: int
    least: Mapping[Memory, int]  # with every stage's smallest run that was built
    most: Mapping[Memory, int]  # with its largest

    @classmethod
    def of(cls, found: GpuMemory, memory: Memory) -> GpuEstimate:
        """Weights are counted; activations are the compiler's, where there is one."""
        stages = found.stages.items()
        return cls(
            device=found.name,
            memory=memory,
            free_bytes=found.free_bytes,
            total_bytes=found.total_bytes,
            least=together({name: needs.weights + needs.least for name, needs in stages}),
            most=together({name: needs.weights + needs.most for name, needs in stages}),
        )

    def __str__(self) -> str:
        least, most = self.least[self.memory], self.most[self.memory]
        upper = "" if least == most else f" to {_gb(most)}"
        text = (
            f"{self.device}: {self.memory} takes an estimated {_gb(least)}{upper}, "
            f"{_gb(self.free_bytes)} of {_gb(self.total_bytes)} are free"
        )
        if most > self.free_bytes >= least:
            text += "; the largest batches and contexts do not fit, smaller ones do"
        return text

    def check(self) -> None:
        """Raise EngineError if not even the smallest runs fit: what is missing, what would fit."""
        needed = self.least[self.memory]
        if needed <= self.free_bytes:
            return
        raise EngineError(
            f"{self.device}: {self.memory} needs an estimated {_gb(needed)}, "
            f"{_gb(self.free_bytes)} of {_gb(self.total_bytes)} are free, "
            f"{_gb(needed - self.free_bytes)} are missing: {self._advice()}"
        )

    def _advice(self) -> str:
        if self.memory == "staged" or self.least["staged"] > self.free_bytes:
            return (
                f"no mode fits (staged needs {_gb(self.least['staged'])}): stop what else uses "
                "the GPU, or round the bundle to fewer bits (omni-rt quantise)"
            )
        if self.most["staged"] > self.free_bytes:
            return f"memory='staged' fits with a small batch ({_gb(self.least['staged'])})"
        return f"memory='staged' fits ({_gb(self.most['staged'])})"


def gpu_estimate(load: LoadEngine, bundle: Bundle, memory: Memory) -> GpuEstimate | None:
    """What a session takes of its GPU, logged; None for an engine that runs on the processor.

    Raises EngineError if it cannot fit, and without that GPU, its driver or engines for it.
    """
    if not isinstance(load, GpuLoader):
        return None
    estimate = GpuEstimate.of(load.memory(bundle), memory)
    _log.info("%s", estimate)
    estimate.check()
    return estimate


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
