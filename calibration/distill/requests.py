"""The requests of a shard: a small calibration set with a seed of its own.

So no shard depends on how many there are, and their prompts, sounds and noise are fresh.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from omni_rt.calibration.case import Case, case_of, stream_of
from omni_rt.calibration.distill.options import CacheOptions
from omni_rt.calibration.inputs import calibration_set
from omni_rt.calibration.own_sounds import user_sounds
from omni_rt.errors import ExportError
from omni_rt.manifest import Dims

CAPTIONED = ("T2A", "T2M")  # a caption is all that they need


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Where requests are drawn from."""

    dims: Dims
    stages: Collection[str]  # what the encoder has: else a task is left out
    options: CacheOptions
    captions: tuple[str, ...] = ()  # for T2A and T2M instead of ours

    def facts(self) -> dict[str, object]:
        """What pins the requests of every shard."""
        waves = user_sounds(self.options.audio, dims=self.dims)
        return {
            "per_task": self.options.per_task,
            "tasks": sorted(self.options.tasks),
            "seed": self.options.seed,
            "captions": _digest(caption.encode() for caption in self.captions),
            "sounds": _digest(wave.tobytes() for wave in waves),
            "stages": sorted(self.stages),
        }

    def of_shard(self, index: int, folder: Path) -> list[Case]:
        """The requests of one shard; films are written into `folder`.

        Raises ExportError if a task that was asked for has none.
        """
        options = self.options
        seed = int(stream_of(options.seed, "shard", index).randint(2**31))
        drawn = calibration_set(
            self.dims,
            self.stages,
            per_task=options.per_task,
            seed=seed,
            audio=options.audio,
            folder=folder,
        )
        cases = [case for case in drawn.cases if case.request is not None]
        if self.captions:
            cases = [case for case in cases if case.task not in CAPTIONED]
            cases += self._captioned(index, seed)
        known = list(dict.fromkeys(case.task for case in cases))
        missing = [task for task in options.tasks if task not in known]
        if missing:
            raise ExportError(
                f"distill: no prompts of {', '.join(missing)}; this model can do {', '.join(known)}"
            )
        return [case for case in cases if not options.tasks or case.task in options.tasks]

    def _captioned(self, index: int, seed: int) -> Iterator[Case]:
        count = self.options.per_task
        for i in range(count):
            for nth, task in enumerate(CAPTIONED):
                number = len(CAPTIONED) * (index * count + i) + nth
                prompt = self.captions[number % len(self.captions)]
                yield case_of(f"{task}/{i}", {"prompt": prompt}, seed=seed)


def read_captions(path: Path | None) -> tuple[str, ...]:
    """One a line. Raises ExportError for a file that cannot be read, or that holds none."""
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ExportError(f"distill: cannot read captions of {path}: {error}") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise ExportError(f"distill: no prompts in {path}: it needs one caption a line")
    return found


def _digest(parts: Iterator[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(hashlib.sha256(part).digest())
    return found.hexdigest()
