"""How far a compiler is: its phases, as lines for the person who waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

Tell = Callable[[str], None]

_EVERY_S = 0.2  # between lines: as often as is read
_DEEPEST = 2  # a build, of its parts, of their phases; what is below lasts milliseconds


class Phases:
    """What a compiler reports of nested phases, told at intervals, from any thread.

    Once `stop` was called the compiler is asked to end at its next step.
    """

    def __init__(self, tell: Tell, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._told = clock()
        self._depths: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Ask the compiler to end."""
        self._stopped = True

    @property
    def stopped(self) -> bool:
        """Whether the compiler was asked to end."""
        return self._stopped

    def begin(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps has begun, within another or by itself."""
        with self._lock:
            self._depths[phase] = self._depths.get(parent, -1) + 1 if parent is not None else 0
            self._steps[phase] = steps

    def step(self, phase: str, index: int) -> bool:
        """A step of a phase is done, counted from 0. Returns whether to go on."""
        with self._lock:
            now = self._clock()
            due = now - self._told >= _EVERY_S
            if due and self._depths.get(phase, 0) <= _DEEPEST:
                self._told = now
                self._tell(f"{phase.lower()}, {index + 1} of {self._steps.get(phase, index + 1)}")
        return not self._stopped

    def end(self, phase: str) -> None:
        """A phase is over."""
        with self._lock:
            self._depths.pop(phase, None)
            self._steps.pop(phase, None)


def monitor(trt: Any, phases: Phases) -> Any:
    """What the library calls while it builds (`IProgressMonitor`)."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # without stubs
        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            phases.begin(phase, parent, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            return phases.step(phase, step)

        def phase_finish(self, phase: str) -> None:
            phases.end(phase)

    return Monitor()
