"""The one protocol behind which graphs run, whatever library compiled them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from omni_rt.manifest import BaseType, TensorSpec

Array = NDArray[np.generic]


class Engine(Protocol):
    """A loaded graph."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """Names, types and shapes of what goes in."""
        ...

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Names, types and shapes of what comes out."""
        ...

    def run(self, **inputs: Array) -> dict[str, Array]:
        """Run once on these inputs; outputs by name. Thread-safe. Raises EngineError."""
        ...

    def bind(self, buffers: Mapping[str, Array]) -> BoundEngine:
        """Fix a C-contiguous, writable buffer for every input and output. Raises EngineError."""
        ...


@runtime_checkable
class NarrowEngine(Protocol):
    """An engine that computes in 16 bits what the graph has in 32."""

    @property
    def base_type(self) -> BaseType:
        """The type of its products that are not rounded to 8 bits or less."""
        ...


class BoundEngine(Protocol):
    """An engine with fixed buffers. The buffers must outlive it."""

    def enqueue(self) -> None:
        """Compute the outputs from what the inputs hold now. Raises EngineError."""
        ...
