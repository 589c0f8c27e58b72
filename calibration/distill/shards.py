"""Pairs on disk: some trajectories of the teacher and what conditioned each, in one file.

A `.safetensors` whose header says what it belongs to and the digest of its tensors, so that one
rename makes a shard, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from omni_rt.calibration.distill.saving import save_tensors
from omni_rt.calibration.distill.tokens import OPTIONAL, Tokens
from omni_rt.errors import ExportError
from omni_rt.export.checkpoint import safe_open_or_refuse
from omni_rt.whole_file import draft_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """One trajectory: states at the student's times [K + 1, C, L] fp16, and its conditioning."""

    name: str
    nodes: Tensor
    tokens: Tokens


def write_shard(path: Path, pairs: Sequence[Pair], *, belongs_to: str) -> None:
    """Write a shard, whole or not at all. Raises RequestError if the disk is full."""
    tensors: dict[str, Tensor] = {}
    for i, pair in enumerate(pairs):
        tensors[f"{i}/nodes"], tensors[f"{i}/words"] = pair.nodes, pair.tokens.words
        for part in OPTIONAL:
            value = getattr(pair.tokens, part)
            if value is not None:
                tensors[f"{i}/{part}"] = value
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    header = {
        "pairs": json.dumps([pair.name for pair in pairs]),
        "belongs_to": belongs_to,
        "content": _content(tensors),
    }
    with draft_of(path) as draft:
        save_tensors(draft, tensors, header=header)


def _content(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype} ".encode())
        found.update(tensors[name].view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class Shard:
    """A shard's pairs, read as they are asked for."""

    def __init__(self, path: Path, *, belongs_to: str, nodes: Sequence[int] | None = None) -> None:
        """`nodes`: which of the states are seen; all for None.

        Raises ExportError for a file that is damaged, or belongs to another cache.
        """
        self._nodes = None if nodes is None else list(nodes)
        self._file: Any = safe_open_or_refuse(path)
        header = self._file.metadata() or {}
        self._keys = frozenset(self._file.keys())
        if header.get("belongs_to") != belongs_to:
            raise ExportError(f"{path} belongs to another cache: remove it")
        if header.get("content") != _content({k: self._file.get_tensor(k) for k in self._keys}):
            raise ExportError(f"{path} was changed since it was written: remove it")
        self.names: tuple[str, ...] = tuple(json.loads(header["pairs"]))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(index)

        def part(name: str) -> Tensor | None:
            key = f"{index}/{name}"
            return self._file.get_tensor(key) if key in self._keys else None

        nodes, words = part("nodes"), part("words")
        assert nodes is not None
        assert words is not None
        tokens = Tokens(words=words, **{name: part(name) for name in OPTIONAL})
        seen = nodes if self._nodes is None else nodes[self._nodes]
        return Pair(name=self.names[index], nodes=seen, tokens=tokens)


def pairs_of(shards: Sequence[Shard]) -> Sequence[Pair]:
    """The pairs of all of them, read as they are asked for."""
    return _Pairs(shards)


class _Pairs(Sequence[Pair]):
    def __init__(self, shards: Sequence[Shard]) -> None:
        self._places = [(shard, i) for shard in shards for i in range(len(shard))]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(index, slice):
            return [shard[i] for shard, i in self._places[index]]
        shard, i = self._places[index]
        return shard[i]
