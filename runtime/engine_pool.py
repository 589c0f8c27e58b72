"""Loads engines when they are first needed, and in `staged` memory lets go of the others."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Literal, get_args

from omni_rt.bundle import Bundle
from omni_rt.engines import Engine
from omni_rt.engines.registry import AUTO, LoadEngine, engine_loader
from omni_rt.errors import EngineError, RequestError

Memory = Literal["resident", "staged"]

# What a stage is used in; in `staged` memory, stages without a phase in common take turns.
# Beside a large stage lie small ones alone: a table of words, and Synchformer, which takes turns
# with the vision tower at every window of a video and has a fifth of its weights.
PHASES: Mapping[str, frozenset[str]] = {
    "audio_tower": frozenset({"hear"}),
    "vision_tower": frozenset({"see"}),
    "synchformer": frozenset({"see"}),
    "thinker_embed": frozenset({"encode", "answer"}),
    "thinker_cond": frozenset({"encode"}),
    "thinker_lm": frozenset({"answer"}),
    "transcript": frozenset({"prepare"}),
    "context": frozenset({"prepare"}),
    "signal": frozenset({"prepare"}),
    "dit_step": frozenset({"sample"}),
    "vae_decoder": frozenset({"decode"}),
    "vae_encoder": frozenset({"vary"}),
}


def together(stages: Mapping[str, int]) -> dict[Memory, int]:
    """The sizes of stages that are in memory at once, in either mode: all, or the largest phase."""
    phases = {phase for stage in stages for phase in PHASES[stage]}
    of_phases = (
        sum(size for stage, size in stages.items() if phase in PHASES[stage]) for phase in phases
    )
    return {"resident": sum(stages.values()), "staged": max(of_phases, default=0)}


def check_machine(threads: object, memory: object) -> None:
    """Raise RequestError for what no pool can be made of."""
    if memory not in get_args(Memory):
        raise RequestError(f"memory must be one of {get_args(Memory)}, got {memory!r}")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise RequestError(f"threads must be a positive integer or None, got {threads!r}")


class EnginePool:
    """One engine per stage. `resident` keeps all that were used; `staged` those of one phase."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None,
        memory: Memory,
        engine: str | LoadEngine = AUTO,
    ) -> None:
        check_machine(threads, memory)
        self._bundle, self._threads, self._memory = bundle, threads, memory
        self._load = engine_loader(engine)
        self._loaded: dict[str, Engine] = {}
        self._lock = threading.Lock()
        self._closed = False

    @property
    def staged(self) -> bool:
        """Whether phases take turns in memory."""
        return self._memory == "staged"

    def get(self, stage: str) -> Engine:
        """The stage's engine, loaded if need be. Raises BundleError or EngineError."""
        with self._lock:
            if self._closed:
                raise EngineError("this session is closed")
            if stage not in self._loaded:
                self._bundle.graph(stage)  # raises before others are let go
                if self.staged:
                    self._release_other_phases(stage)
                self._loaded[stage] = self._load(self._bundle, stage, self._threads)
            return self._loaded[stage]

    def close(self) -> None:
        """Let go of every engine."""
        with self._lock:
            self._closed = True
            self._loaded.clear()

    def _release_other_phases(self, stage: str) -> None:
        others = [s for s in self._loaded if not PHASES[s] & PHASES[stage]]
        for other in others:
            del self._loaded[other]
