"""Baselines: what is slower, what cannot be compared, and files that are none. Nothing is timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omni_rt import latency, strict_json
from omni_rt.bench import BenchReport
from omni_rt.errors import RequestError
from omni_rt.latency import LOOP, Baseline, baseline_of
from omni_rt.manifest import Manifest
from omni_rt.timing import Timing

from .tiny_bundle import write_tiny_bundle


def timing(p50_s: float) -> Timing:
    return Timing(min_s=0.9 * p50_s, p50_s=p50_s, p90_s=1.1 * p50_s, spread=0.2, runs=5)


def report(**stages: float) -> BenchReport:
    return BenchReport(
        bundle="an id",
        engine="onnxruntime",
        threads=2,
        stages={name: timing(value) for name, value in stages.items()},
        step=timing(stages["dit_step"]),
        step_gflop=1.0,
        step_gflop_per_s=1.0,
        loop_overhead_percent=0.1,
        context_tokens=8,
        thinker=None,
        synchformer_per_video_s=None,
        peak_rss_bytes=1,
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_tiny_bundle(tmp_path / "bundle")


@pytest.fixture
def before(manifest: Manifest) -> Baseline:
    return baseline_of(report(context=0.010, dit_step=0.100), manifest)


def test_timings_say_least_median_ninth_decile_and_spread() -> None:
    found = Timing.of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0])
    assert (found.min_s, found.p50_s, found.p90_s, found.runs) == (1.0, 6.0, 10.0, 11)
    assert found.spread == (10.0 - 2.0) / 6.0


def test_the_loop_is_kept_beside_the_stages(before: Baseline) -> None:
    assert {name: t.p50_s for name, t in before.stages.items()} == {"context": 0.010, LOOP: 0.100}
    assert before.libraries["omni_rt"]
    assert before.warm_up_runs == 1


@pytest.mark.parametrize(
    ("context", "step", "slow"),
    [
        (0.010, 0.100, []),
        (0.005, 0.050, []),
        (0.011, 0.114, []),
        (0.012, 0.100, ["context"]),
        (0.020, 0.116, ["context", LOOP]),
    ],
)
def test_what_takes_more_than_the_bound_is_named(
    before: Baseline, manifest: Manifest, context: float, step: float, slow: list[str]
) -> None:
    after = baseline_of(report(context=context, dit_step=step), manifest)
    found = latency.changes(before, after)
    assert [change.stage for change in latency.slower(found, 1.15)] == slow


def test_a_slowdown_is_of_medians(before: Baseline) -> None:
    twice = replace(before, stages={name: timing(2 * t.p50_s) for name, t in before.stages.items()})
    assert [change.slowdown for change in latency.changes(before, twice)] == [2.0, 2.0]
    assert latency.slower(latency.changes(before, twice), 2.0) == []


@pytest.mark.parametrize("bound", [0.99, 0.0, float("nan"), float("inf")])
def test_a_bound_below_one_is_refused(before: Baseline, bound: float) -> None:
    with pytest.raises(RequestError, match="max_slowdown must be 1 or more"):
        latency.slower(latency.changes(before, before), bound)


@pytest.mark.parametrize(
    "changed",
    [
        {"device": "another"},
        {"engine": "openvino"},
        {"threads": None},
        {"warm_up_runs": 3},
        {"model": "another"},
        {"stages": {}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_was_timed_otherwise_is_not_compared(
    before: Baseline, changed: dict[str, Any]
) -> None:
    with pytest.raises(RequestError, match="timed otherwise"):
        latency.changes(before, replace(before, **changed))


def test_other_libraries_are_compared_and_named(before: Baseline) -> None:
    old = replace(before, libraries={**before.libraries, "onnxruntime": "1.0"})
    assert len(latency.changes(old, before)) == 2
    (named,) = latency.other_libraries(old, before)
    assert named.startswith("onnxruntime 1.0 → ")


@pytest.mark.parametrize(
    ("engine", "package"),
    [
        ("torch_cuda", "torch"),
        ("torch_cuda_fp8", "torch"),
        ("onnxruntime_cuda", "onnxruntime-gpu"),
        ("tensorrt_rtx", "tensorrt_rtx"),
    ],
)
def test_an_engine_is_known_by_the_version_of_what_is_installed_for_it(
    engine: str, package: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "version", lambda name: f"{name} 9")
    taken = baseline_of(replace(report(dit_step=0.1), engine=engine), manifest)
    assert taken.libraries[package] == f"{package} 9"
    assert "unknown" not in taken.libraries.values()


def test_weights_do_not_make_another_model_but_precision_does(
    before: Baseline, manifest: Manifest
) -> None:
    same = baseline_of(report(context=0.01, dit_step=0.1), replace(manifest, name="renamed"))
    assert same.model == before.model
    graphs = {s: replace(g, precision="int8") for s, g in manifest.graphs.items()}
    rounded = baseline_of(report(context=0.01, dit_step=0.1), replace(manifest, graphs=graphs))
    assert rounded.model != before.model


# Files


def test_a_baseline_is_found_again_by_its_device(before: Baseline, tmp_path: Path) -> None:
    file = latency.save(before, tmp_path)
    assert file.parent == tmp_path
    assert latency.for_device(tmp_path, before.device) == before
    assert latency.for_device(file, before.device) == before


@pytest.mark.parametrize(
    ("gpus", "ends"),
    [
        (None, " threads"),
        ("", " threads"),
        ("NVIDIA H200, 143771 MiB", " threads, NVIDIA H200, 143771 MiB"),
    ],
)
def test_a_device_is_its_processor_and_its_gpus(
    gpus: str | None, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "gpu_names", lambda: gpus)
    assert latency.this_device().endswith(ends)


def test_another_device_has_no_baseline(before: Baseline, tmp_path: Path) -> None:
    file = latency.save(before, tmp_path)
    assert latency.for_device(tmp_path, "RTX 4090") is None
    assert latency.for_device(file, "RTX 4090") is None


def test_nothing_there_is_not_taken_for_another_device(before: Baseline, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no baseline at .*: make one"):
        latency.for_device(tmp_path / "nowhere", before.device)


def altered(raw: dict[str, Any]) -> str:
    raw["stages"]["context"]["p50_s"] *= 100
    return json.dumps(raw)


def without(key: str) -> Any:
    return lambda raw: json.dumps({name: value for name, value in raw.items() if name != key})


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (altered, "was changed after it was saved"),
        (without("digest"), "was changed after it was saved"),
        (without("device"), "is no latency baseline"),
        (lambda raw: json.dumps(raw)[:-20], "is no latency baseline"),
        (lambda raw: "[]", "is no latency baseline"),
        (lambda raw: "\udcff", "is no latency baseline"),
        (lambda raw: json.dumps({**raw, "schema": 9}), "has schema 9, expected 2"),
        (lambda raw: json.dumps({**raw, "schema": "2"}), "is no latency baseline"),
        (lambda raw: " " * (2 << 20), "too large"),
    ],
)
def test_a_foreign_or_altered_file_is_one_error(
    before: Baseline, tmp_path: Path, made: Any, said: str
) -> None:
    file = latency.save(before, tmp_path / "it.json")
    text = made(strict_json.to_json(before))
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RequestError, match=said):
        latency.read(file)


def test_no_duration_is_refused_even_if_it_was_saved(before: Baseline, tmp_path: Path) -> None:
    nothing = replace(before, stages={"context": timing(0.0)}, digest="")
    signed = replace(nothing, digest=latency.digest_of(nothing))
    with pytest.raises(RequestError, match="no duration"):
        latency.read(latency.save(signed, tmp_path / "it.json"))


def test_a_file_that_cannot_be_written_is_one_error(before: Baseline, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot write"):
        latency.save(before, tmp_path / "no folder" / "it.json")
