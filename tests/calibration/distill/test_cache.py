"""The cache: bound to what made it, resumed after a kill, checked when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from omni_rt.calibration.distill import saving
from omni_rt.calibration.distill.cache import Cache, cache_facts, fill, trajectories
from omni_rt.calibration.distill.devices import OneDevice
from omni_rt.calibration.distill.requests import Requests
from omni_rt.calibration.distill.shards import Shard, write_shard
from omni_rt.errors import ExportError, RequestError
from tests.calibration.distill.tiny import (
    arrays,
    random_pairs,
    requests,
    session_without_thinker,
    teacher_of,
    tokens,
    write_checkpoint,
)


def filled(
    folder: Path, checkpoint: Path, *, shards: int = 2, killed_at: int | None = None, **options: Any
) -> tuple[Cache, int]:
    """Run the first stage, as a process would that is killed while it makes one of the shards."""
    asked = requests(**options)
    facts = cache_facts(asked.options, asked, sha256="abc", bf16=False)
    cache = Cache(folder, facts, shards=shards)
    made = []

    def tell(text: str) -> None:
        made.append(text)
        if len(made) - 1 == killed_at:
            raise KeyboardInterrupt

    fill(
        cache,
        teacher_of(checkpoint),
        asked,
        session_without_thinker(),
        devices=OneDevice(),
        rows=2,
        tell=tell,
    )
    return cache, len(made)


def test_a_kill_loses_the_shard_in_the_making(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "teacher")
    whole, count = filled(tmp_path / "whole", checkpoint, shards=3)
    assert count == 3
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "killed", checkpoint, shards=3, killed_at=1)
    (tmp_path / "killed" / "tmpx.safetensors").write_bytes(b"half a shard")
    again, count = filled(tmp_path / "killed", checkpoint, shards=3)
    assert count == 2
    for ours, theirs in zip(again.read(), whole.read(), strict=True):
        assert ours.names == theirs.names
        for a, b in zip(arrays(list(ours)), arrays(list(theirs)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_shards_have_fresh_prompts_and_noise(tmp_path: Path) -> None:
    cache, _ = filled(tmp_path / "cache", write_checkpoint(tmp_path / "teacher"))
    first, second = cache.read()
    assert not torch.equal(first[0].nodes[0], second[0].nodes[0])
    assert first[0].nodes.shape[0] == 3
    assert first[0].nodes.dtype == torch.float16


@pytest.mark.parametrize(
    ("options", "other", "named"),
    [
        ({"cfg_scale": 3.0}, {}, "cfg_scale was 7.0, now 3.0"),
        ({"steps": 4}, {}, "grid was"),
        ({"shift": 2.0}, {}, "grid was"),
        ({"teacher_steps": 8}, {}, "teacher was 'ab3-4', now 'ab3-8'"),
        ({"seed": 1}, {}, "seed was 0, now 1"),
        ({"tasks": ("T2A", "T2M")}, {}, "tasks was"),
        ({"per_task": 2}, {}, "per_task was 1, now 2"),
        ({}, {"sha256": "def"}, "checkpoint was 'abc', now 'def'"),
        ({}, {"bf16": True}, "bf16 was False, now True"),
    ],
)
def test_a_cache_of_something_else_is_refused(
    tmp_path: Path, options: dict[str, Any], other: dict[str, Any], named: str
) -> None:
    def facts(asked: Requests, **given: Any) -> Any:
        return cache_facts(asked.options, asked, **{"sha256": "abc", "bf16": False, **given})

    Cache(tmp_path, facts(requests()), shards=1)
    Cache(tmp_path, facts(requests()), shards=2)  # more of the same
    with pytest.raises(ExportError, match="trajectories of something else") as caught:
        Cache(tmp_path, facts(requests(**options), **other), shards=1)
    assert named in str(caught.value)


def test_other_captions_are_another_cache(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a dog\n")
    (tmp_path / "b.txt").write_text("a dog\n\na cat\n")
    found = [requests(captions=tmp_path / f"{name}.txt").facts()["captions"] for name in "ab"]
    assert found[0] != found[1]
    cases = requests(captions=tmp_path / "b.txt", per_task=2).of_shard(0, tmp_path)
    assert [getattr(case.request, "prompt", None) for case in cases] == ["a dog", "a dog"]
    both = requests(captions=tmp_path / "b.txt", tasks=("T2A", "T2M")).of_shard(0, tmp_path)
    assert [getattr(case.request, "prompt", None) for case in both] == ["a dog", "a cat"]


def test_no_prompts_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text(" \n\n")
    with pytest.raises(ExportError, match="no prompts in"):
        requests(captions=tmp_path / "none.txt")
    with pytest.raises(ExportError, match="no prompts of V2A; this model can do T2A, T2M"):
        requests(tasks=("V2A",)).of_shard(0, tmp_path)


def test_a_shard_keeps_its_pairs_to_the_bit_and_knows_when_it_was_changed(tmp_path: Path) -> None:
    path, pairs = tmp_path / "shard.safetensors", random_pairs(3)
    write_shard(path, pairs, belongs_to="us")
    shard = Shard(path, belongs_to="us")
    assert [p.name for p in shard] == [p.name for p in pairs]
    for a, b in zip(arrays(list(shard)), arrays(pairs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert shard[0].tokens.speech is None
    with pytest.raises(ExportError, match="belongs to another cache"):
        Shard(path, belongs_to="them")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ExportError, match="was changed since"):
        Shard(path, belongs_to="us")
    path.write_bytes(data[:-50])
    with pytest.raises(ExportError, match="no whole safetensors file"):
        Shard(path, belongs_to="us")


def test_a_teacher_that_breaks_down_is_named(tmp_path: Path) -> None:
    teacher = teacher_of(write_checkpoint(tmp_path / "teacher"))
    teacher.dit.preprocess_conv.weight.data.fill_(float("nan"))
    asked = requests()
    cases = asked.of_shard(0, tmp_path)
    with pytest.raises(ExportError, match="trajectory of T2A/0 is not finite"):
        trajectories(teacher, cases, [tokens(4)], asked.options, rows=1)


def test_a_full_disk_is_one_error_and_leaves_no_half_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(RequestError, match=r"cannot write .*No space left on device"):
        write_shard(tmp_path / "shard.safetensors", random_pairs(1), belongs_to="us")
    assert not list(tmp_path.iterdir())
