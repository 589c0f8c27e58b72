"""The teacher's trajectories on disk, a shard at a time: a kill loses the shard in the making."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from omni_rt.calibration.case import Case
from omni_rt.calibration.distill.binding import Facts, bind
from omni_rt.calibration.distill.devices import Devices
from omni_rt.calibration.distill.options import CacheOptions
from omni_rt.calibration.distill.requests import Requests
from omni_rt.calibration.distill.shards import Pair, Shard, write_shard
from omni_rt.calibration.distill.teacher import nested_plan, node_states, substeps
from omni_rt.calibration.distill.tokens import Silence, Tokens, collated, silence_of, tokens_of
from omni_rt.calibration.trajectories import conditioning_of
from omni_rt.errors import ExportError
from omni_rt.export.reference.dit import DiT
from omni_rt.export.reference.model import AudioOmni
from omni_rt.sampling import Noise
from omni_rt.session import Session

Tell = Callable[[str], None]

FORMAT = 1  # of shards and of what decides their contents
FACTS = "cache.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """The model that is to be imitated. `dit` lies on the device; the rest may lie elsewhere."""

    model: AudioOmni
    dit: DiT
    silence: Silence
    device: torch.device

    @classmethod
    def of(cls, model: AudioOmni, device: torch.device) -> Teacher:
        silence = silence_of(model)
        return cls(model=model, dit=model.dit.to(device), silence=silence, device=device)


class Cache:
    """A folder of shards, all of one teacher, grid, guidance and set of requests."""

    def __init__(self, folder: Path, facts: Facts, *, shards: int) -> None:
        """Raises ExportError if the folder holds another cache."""
        self.folder, self.shards = folder, shards
        self._digest = bind(folder / FACTS, facts, what="trajectories")

    def path(self, index: int) -> Path:
        return self.folder / f"shard-{index:05d}.safetensors"

    def missing(self) -> list[int]:
        """Shards that are still to be made."""
        return [i for i in range(self.shards) if not self.path(i).is_file()]

    def write(self, index: int, pairs: Sequence[Pair]) -> None:
        """Add a shard."""
        write_shard(self.path(index), pairs, belongs_to=self._digest)

    def read(self, *, nodes: Sequence[int] | None = None) -> list[Shard]:
        """Every shard, checked; of the states those at these places alone, or all.

        Raises ExportError for one that is damaged or not there.
        """
        missing = self.missing()
        if missing:
            raise ExportError(f"{self.folder} lacks {len(missing)} of {self.shards} shards")
        paths = [self.path(i) for i in range(self.shards)]
        return [Shard(path, belongs_to=self._digest, nodes=nodes) for path in paths]


def cache_facts(options: CacheOptions, requests: Requests, *, sha256: str, bf16: bool) -> Facts:
    """All that decides what a shard holds."""
    return {
        "format": FORMAT,
        "checkpoint": sha256,
        "grid": list(options.nodes),
        "teacher": nested_plan(options.nodes, options.teacher_steps).name,
        "cfg_scale": options.guidance,
        "bf16": bf16,
        **requests.facts(),
    }


def fill(
    cache: Cache,
    teacher: Teacher,
    requests: Requests,
    session: Session,
    *,
    devices: Devices,
    rows: int,
    tell: Tell,
) -> None:
    """Make this device's part of the missing shards, `rows` trajectories at once."""
    own = [i for i in cache.missing() if i % devices.count == devices.rank]
    for done, index in enumerate(own):
        tell(f"trajectories: shard {index} ({done + 1} of {len(own)})")
        with tempfile.TemporaryDirectory() as films:
            cases = requests.of_shard(index, Path(films))
            tokens = [tokens_of(teacher.model, conditioning_of(session, c)) for c in cases]
        cache.write(index, trajectories(teacher, cases, tokens, requests.options, rows=rows))


def trajectories(
    teacher: Teacher,
    cases: Sequence[Case],
    tokens: Sequence[Tokens],
    options: CacheOptions,
    *,
    rows: int,
) -> list[Pair]:
    """The guided teacher from each case's noise. Raises ExportError if it is not finite."""
    plan = nested_plan(options.nodes, options.teacher_steps)
    config = teacher.model.sizes.config
    shape = (config.latent_channels, config.latent_frames)
    found = []
    for begin in range(0, len(cases), rows):
        some, given = cases[begin : begin + rows], tokens[begin : begin + rows]
        noise = np.stack([Noise(case.seed, shape).initial for case in some])
        nodes = node_states(
            teacher.dit,
            torch.from_numpy(noise).to(teacher.device),
            collated(given, teacher.silence, teacher.device),
            plan,
            every=substeps(options.nodes, options.teacher_steps),
            cfg_scale=options.guidance,
        )
        for case, own, states in zip(some, given, nodes.half().cpu(), strict=True):
            if not torch.isfinite(states).all():
                raise ExportError(f"distill: the teacher's trajectory of {case.name} is not finite")
            found.append(Pair(name=case.name, nodes=states, tokens=own))
    return found
