"""The loop's times: what counts as waiting, and a plan of a fake TensorRT timed from end to end."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from omni_rt.bench_loop import Idle, bench_loop
from omni_rt.bundle import Bundle
from omni_rt.cuda_loop import Bucket, CudaLoop
from omni_rt.engines.gpu import Gpu, GpuLoader
from omni_rt.engines.tensorrt import TensorRtEngine
from omni_rt.engines.tensorrt_step import TensorRtStep
from omni_rt.errors import RequestError
from omni_rt.export.cli import commands
from tests.runtime.tiny_bundle import rewrite

from .cuda_host import host_module
from .engines.compiled import BUCKETS
from .engines.fake_gpu import FakeDriver, FakeTensorRt, OnGpu
from .engines.test_tensorrt import TYPES, step, with_engines


def test_what_a_row_waits_for_its_launch_counts_though_its_begin_was_marked_before() -> None:
    free = [[(0.0, 100.0), (1.0, 100.0), (1.0, 102.0)]]  # all rows were on the stream
    late = [[(0.0, 900.0), (0.0, 150.0), (0.0, 150.0)]]  # each was launched 50 µs after its mark
    assert Idle.of(late, free) == Idle(p50_us=50.0, p90_us=50.0)
    between = [[(0.0, 100.0), (7.0, 100.0), (7.0, 100.0)]]
    assert Idle.of(between, free) == Idle(p50_us=7.0, p90_us=7.0)
    assert Idle.of([[(0.0, 100.0)]], free) == Idle(p50_us=0.0, p90_us=0.0)  # a single row


class Bridge:
    """A plan of the fake GPU in the loop of the device that is the processor: x, t and v are copied
    between the two memories."""

    def __init__(self, host: Any, engine: TensorRtEngine, driver: FakeDriver) -> None:
        self.host, self.driver, self.inner = host, driver, TensorRtStep(engine)
        self.dtype, self.token_buckets = self.inner.dtype, self.inner.token_buckets

    def bind_device(self, bucket: Bucket, buffers: Mapping[str, Any]) -> Any:
        shared = {name: np.from_dlpack(buffer) for name, buffer in buffers.items()}
        there = {name: OnGpu(self.driver, array) for name, array in shared.items()}
        bound = self.inner.bind_device(bucket, there)

        def work() -> None:
            for name in ("x", "t"):
                self.driver.upload(there[name].address, shared[name], 0)
            bound.enqueue(99)
            v = there["v"].numpy()
            ctypes.memmove(shared["v"].ctypes.data, v.ctypes.data, v.nbytes)

        return SimpleNamespace(
            fill=bound.fill, enqueue=lambda stream: self.host.submit(stream, work)
        )


@pytest.fixture
def bundle(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A compiled step, and an engine for it under every name."""
    host, driver = host_module(), FakeDriver()
    library = FakeTensorRt(
        driver=driver, ports=TYPES, outputs=("v",), compute=step, profiles=2 * len(BUCKETS)
    )

    def load(bundle: Bundle, stage: str, threads: int | None, gpu: Gpu) -> Any:
        engine = TensorRtEngine(
            bundle, stage, library=library.module(), name="tensorrt_rtx", driver=driver
        )
        loop = CudaLoop(Bridge(host, engine, driver), host.HostDevice(), host)
        return SimpleNamespace(loop=loop)

    loader = GpuLoader(name="fake", load=load, look=lambda bundle, ordinal: None)  # type: ignore[arg-type,return-value]
    monkeypatch.setattr("omni_rt.bench_loop.engine_loader", lambda name: loader)
    made = with_engines(tmp_path / "bundle")
    few = replace(made.manifest.dims, context_tokens=8)  # what the plan was built for holds them
    rewrite(made.directory, made.manifest, dims=few)
    return Bundle.open(made.directory)


def test_a_bundles_plan_is_timed_enqueued_and_replayed(bundle: Bundle) -> None:
    report = bench_loop(bundle, engine="tensorrt_rtx", steps=6, runs=2, repeats=3)
    assert list(report.modes) == ["enqueue", "replay", "ahead"]
    for times in report.modes.values():
        assert times.per_step.p50_s > 0
        assert times.per_step.runs == 2
    enqueued, replayed = (report.modes[mode].per_step.p50_s for mode in ("enqueue", "replay"))
    assert report.ratio == enqueued / replayed
    assert (report.same_bits, report.repeats) == (3, 3)
    assert (report.device, report.engine, report.steps) == ("processor", "tensorrt_rtx", 6)


def test_the_command_prints_it(bundle: Bundle) -> None:
    app = typer.Typer()
    commands(app)
    given = ["bench-cuda", str(bundle.directory), "--engine", "tensorrt_rtx"]
    given += ["--steps", "3", "--runs", "1", "--repeats", "2"]
    told = CliRunner().invoke(app, given)
    assert told.exit_code == 0, told.output
    assert "2 of 2 runs of one seed gave the same bits" in told.stdout
    told = CliRunner().invoke(app, [*given, "--json"])
    assert json.loads(told.stdout)["modes"].keys() == {"enqueue", "replay", "ahead"}
    told = CliRunner().invoke(app, [*given, "--depth", "3"])
    assert told.exit_code == 2
    assert "--depth is for random weights" in told.stderr
    told = CliRunner().invoke(app, ["bench-cuda", "--engine", "tensorrt_rtx"])
    assert "are for a bundle" in told.stderr


def test_an_engine_without_the_loop_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = GpuLoader(name="x", load=lambda *_: object(), look=lambda *_: None)  # type: ignore[arg-type,return-value]
    monkeypatch.setattr("omni_rt.bench_loop.engine_loader", lambda name: loader)
    with pytest.raises(RequestError, match="'onnxruntime_cuda' has no CUDA loop"):
        bench_loop(bundle, engine="onnxruntime_cuda")
