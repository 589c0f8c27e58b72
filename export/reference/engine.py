"""A stage as a torch module behind the runtime's `Engine` protocol: the reference, and what
calibration observes. Offered to the runtime through the entry-point group `omni_rt.engines`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from omni_rt.bundle import Bundle
from omni_rt.engines import Array
from omni_rt.engines.checks import check_arrays, check_buffers, one_line
from omni_rt.errors import EngineError
from omni_rt.export.graphs import Stage
from omni_rt.export.reference.from_bundle import sizes_of, stage_of
from omni_rt.manifest import TensorSpec


def load_engine(bundle: Bundle, stage: str, threads: int | None) -> TorchEngine:
    """A stage of an unrounded bundle in fp32 on the CPU. Torch's threads are the process's."""
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchEngine(stage_of(bundle, stage, sizes_of(bundle)))


class TorchEngine:
    """A stage's module, run as it is: hooks and replaced layers take part."""

    def __init__(self, stage: Stage, device: str = "cpu") -> None:
        """The module's weights must lie on `device` already."""
        self.stage, self.device = stage, device

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self.stage.ports.inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self.stage.ports.outputs

    def run(self, **inputs: Array) -> dict[str, Array]:
        """Run once; outputs by name. Raises EngineError for other inputs, or if the module does."""
        check_arrays(self.stage.name, self.inputs, inputs)
        arrays = [np.require(inputs[port.name], requirements=["C", "W"]) for port in self.inputs]
        try:
            with torch.inference_mode(), without_tf32():
                tensors = [torch.from_numpy(array).to(self.device) for array in arrays]
                made = self.stage.module(*self.stage.arguments(tensors))
            values = made if isinstance(made, tuple) else (made,)
            return {p.name: v.cpu().numpy() for p, v in zip(self.outputs, values, strict=True)}
        except (RuntimeError, IndexError, ValueError) as error:
            raise EngineError(f"{self.stage.name}: {one_line(error)}") from error

    def bind(self, buffers: Mapping[str, Array]) -> TorchBinding:
        """Fix every input and output to a C-contiguous, writable buffer."""
        check_buffers(self.stage.name, (*self.inputs, *self.outputs), buffers)
        return TorchBinding(self, buffers)


class _Tf32Switch:
    """Settings that are the whole process's, off while anybody asks for it, then put back."""

    def __init__(self) -> None:
        cudnn: Any = torch.backends.cudnn
        self._kinds: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
        self._lock, self._users = threading.Lock(), 0
        self._before: list[str] = []

    def off(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = [kind.fp32_precision for kind in self._kinds]
                for kind in self._kinds:
                    kind.fp32_precision = "ieee"
            self._users += 1

    def back(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for kind, precision in zip(self._kinds, self._before, strict=True):
                    kind.fp32_precision = precision


_TF32 = _Tf32Switch()


@contextmanager
def without_tf32() -> Iterator[None]:
    """Products and convolutions of fp32 are computed in fp32, whatever the process has set.

    TF32, torch's default for convolutions, has no more digits than fp16. Threads may overlap.
    """
    _TF32.off()
    try:
        yield
    finally:
        _TF32.back()


class TorchBinding:
    """An engine with fixed buffers."""

    def __init__(self, engine: TorchEngine, buffers: Mapping[str, Array]) -> None:
        self._engine, self._buffers = engine, dict(buffers)

    def enqueue(self) -> None:
        """Run from and into the bound buffers."""
        inputs = {port.name: self._buffers[port.name] for port in self._engine.inputs}
        for name, value in self._engine.run(**inputs).items():
            buffer = self._buffers[name]
            if buffer.shape != value.shape:
                raise EngineError(
                    f"{self._engine.stage.name}: buffer {name} must be {list(value.shape)}, "
                    f"got {list(buffer.shape)}"
                )
            buffer[...] = value
