"""Real calls of every stage: inputs and exact outputs, to measure a rounded graph by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_rt.bundle import Bundle
from omni_rt.calibration.case import Case
from omni_rt.calibration.smooth import Folds
from omni_rt.calibration.trajectories import Trajectory, run_case
from omni_rt.engines import Array, Engine
from omni_rt.engines.registry import engine_loader
from omni_rt.export.graphs import Stage
from omni_rt.export.reference.engine import TorchEngine
from omni_rt.export.reference.from_bundle import sizes_of, stage_of
from omni_rt.session import Session
from omni_rt.uncertified import unsaid

# What runs once for each step or token; all else runs once or twice for a case.
_MANY_CALLS = ("dit_step", "thinker_lm")

Call = dict[str, NDArray[np.generic]]  # inputs and outputs by name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recorded:
    """One call, and the case it was made for."""

    case: str
    arrays: Call

    @property
    def size_bytes(self) -> int:
        return sum(value.nbytes for value in self.arrays.values())


class RecordingEngine(TorchEngine):
    """A torch stage that keeps its calls, at most `most` of each case, evenly over all."""

    def __init__(self, stage: Stage, recorder: Recorder, *, most: int) -> None:
        super().__init__(stage)
        self.calls: list[Recorded] = []
        self._recorder, self._most = recorder, most
        self._case, self._every, self._count = "", 1, 0

    def run(self, **inputs: Array) -> dict[str, Array]:
        """Run once, and perhaps keep what went in and came out."""
        outputs = super().run(**inputs)
        if self._case != self._recorder.case:
            self._case, self._every, self._count = self._recorder.case, 1, 0
        if self._count % self._every == 0:
            arrays = {name: value.copy() for name, value in (inputs | outputs).items()}
            self.calls.append(Recorded(case=self._case, arrays=arrays))
        self._count += 1
        self._thin_out()
        return outputs

    def _thin_out(self) -> None:
        own = [call for call in self.calls if call.case == self._case]
        if len(own) > self._most:
            dropped = own[1::2]
            self.calls = [call for call in self.calls if call not in dropped]
            self._every *= 2


class Recorder:
    """Folded but unrounded torch stages for a session, and what they were called with."""

    def __init__(self, bundle: Bundle, folds: Mapping[str, Folds], *, most: int) -> None:
        self.case = ""  # what the next calls are made for
        self._bundle, self._folds, self._most = bundle, folds, most
        self._sizes, self._others = sizes_of(bundle), engine_loader("onnxruntime")
        self._engines: dict[str, RecordingEngine] = {}

    def engine(self, bundle: Bundle, stage: str, threads: int | None) -> Engine:
        """What a session is to run a stage with."""
        if stage not in self._folds:
            return self._others(bundle, stage, threads)
        module = stage_of(self._bundle, stage, self._sizes, changed=self._folds[stage].folded)
        most = self._most if stage in _MANY_CALLS else 1
        self._engines[stage] = RecordingEngine(module, self, most=most)
        return self._engines[stage]

    def trajectories(
        self,
        cases: Iterable[Case],
        *,
        plan: str,
        cfg_scale: float,
        tell: Callable[[str], None],
    ) -> dict[str, Trajectory]:
        """Run cases, whose calls are kept. Returns what those that make sound came to, by name."""
        found = {}
        with (
            unsaid(),
            Session(self._bundle.directory, engine=self.engine, allow_uncertified=True) as session,
        ):
            for case in cases:
                tell(case.name)
                self.case = case.name
                made = run_case(session, case, plan=plan, cfg_scale=cfg_scale)
                if made is not None:
                    found[case.name] = made
        return found

    def stage(self, name: str) -> Stage:
        """The torch stage that was recorded, with its folds."""
        return self._engines[name].stage

    def run(self, stage: str, **inputs: Array) -> dict[str, Array]:
        """What the exact stage makes of other inputs."""
        return TorchEngine(self._engines[stage].stage).run(**inputs)

    def calls(self, stage: str) -> list[Recorded]:
        """The calls of a stage that were kept, in their order."""
        return self._engines[stage].calls if stage in self._engines else []
