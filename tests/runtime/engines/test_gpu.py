"""Which GPU, which kind of graph: what a session is told reaches its engines, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from typer.testing import CliRunner

from omni_rt import Session
from omni_rt.bundle import Bundle
from omni_rt.cli import app
from omni_rt.engines import tensorrt_stages
from omni_rt.engines.gpu import Gpu, GpuLoader, GpuMemory, StageNeeds, weights_alone
from omni_rt.engines.ort import CPU, CUDA, load_cuda_engine
from omni_rt.engines.registry import engine_loader, placed
from omni_rt.engines.tensorrt_step import TensorRtStepEngine
from omni_rt.errors import EngineError, RequestError
from omni_rt.external_data import stored_values
from omni_rt.manifest import GraphSpec
from omni_rt.packaged import miniature
from tests.runtime.tiny_bundle import STAGES, write_tiny_bundle

from .compiled import BUCKETS
from .fake_gpu import FakeDriver, FakeTensorRt
from .test_tensorrt import TYPES, step, with_engines

pytestmark = pytest.mark.usefixtures("home")

GB = 10**9


class Recorded:
    """An engine for GPUs that keeps what it was told."""

    def __init__(self, *, captures: bool = True) -> None:
        self.told: list[tuple[str, Gpu]] = []
        self.loader = GpuLoader(name="fake", load=self.load, look=self.look, captures=captures)

    def load(self, bundle: Bundle, stage: str, threads: int | None, gpu: Gpu) -> Any:
        self.told.append((stage, gpu))
        return object()

    def look(self, bundle: Bundle, ordinal: int) -> GpuMemory:
        if ordinal > 1:
            raise EngineError(f"there is no CUDA device {ordinal}: 2 visible")
        stages = dict.fromkeys(STAGES, StageNeeds(weights=GB))
        return GpuMemory(name="fake", free_bytes=8 * GB, total_bytes=9 * GB, stages=stages)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize(("device", "ordinal"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_every_stage_is_told_the_gpu_and_how_to_capture(
    tiny: Path, device: str, ordinal: int
) -> None:
    engine = Recorded()
    with Session(
        tiny, engine=engine.loader, device=device, cuda_graph="chain", cuda_shapes=2, cuda_stream=5
    ) as session:
        session.warmup()
    wanted = Gpu(ordinal=ordinal, graph="chain", kept=2, stream=5)
    assert engine.told == [(stage, wanted) for stage in STAGES]


def test_a_device_that_does_not_exist_is_refused_before_anything_is_loaded(tiny: Path) -> None:
    engine = Recorded()
    with pytest.raises(EngineError, match="there is no CUDA device 7: 2 visible"):
        Session(tiny, engine=engine.loader, device="cuda:7")
    assert engine.told == []


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "", None, 1])
def test_what_is_no_device_is_refused(tiny: Path, device: Any) -> None:
    with pytest.raises(RequestError, match="device must be auto, cpu, cuda or cuda:N"):
        Session(tiny, device=device)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cuda_graph": "whole"}, "cuda_graph must be one of"),
        ({"cuda_shapes": 0}, "cuda_shapes must be a positive integer"),
        ({"cuda_stream": -1}, "cuda_stream must be"),
        ({"device": "cpu"}, "runs on a GPU, device is 'cpu'.*engine='onnxruntime'"),
    ],
)
def test_options_that_an_engine_for_gpus_has_not_are_refused(
    tiny: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(RequestError, match=says):
        Session(tiny, engine=Recorded().loader, **options)


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"cuda_graph": "chain"}])
def test_an_engine_of_the_processor_takes_no_options_of_a_gpu(
    tiny: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(RequestError, match="is for engines that run on a GPU"):
        Session(tiny, engine="onnxruntime", **options)
    Session(tiny, engine="onnxruntime", device="cpu").close()


def test_an_engine_that_captures_nothing_has_no_chains(tiny: Path) -> None:
    with pytest.raises(RequestError, match="captures no graphs"):
        Session(tiny, engine=Recorded(captures=False).loader, cuda_graph="chain")
    assert not load_cuda_engine.captures


class TwoGpus:
    """TensorRT-RTX where two GPUs are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **driver: Any) -> None:
        self.drivers = [FakeDriver(**driver), FakeDriver(**driver)]
        library = FakeTensorRt(
            driver=self.drivers[1], ports=TYPES, outputs=("v",), compute=step,
            profiles=2 * len(BUCKETS),
        )  # fmt: skip
        monkeypatch.setattr(tensorrt_stages, "library_named", lambda name: library.module())
        monkeypatch.setattr(tensorrt_stages, "CudaDriver", lambda *, ordinal: self.drivers[ordinal])


def test_a_plan_is_loaded_on_the_gpu_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = TwoGpus(monkeypatch)
    bundle = with_engines(tmp_path / "bundle")
    opened: list[tuple[int, int]] = []

    def open_device(ordinal: int, *, stream: int) -> object:
        opened.append((ordinal, stream))
        return object()

    monkeypatch.setattr("omni_rt.cuda_loop.open_device", open_device)
    monkeypatch.setattr("omni_rt.cuda_loop.cuda_module", object)
    gpu = Gpu(graph="chain", kept=2, stream=5)
    engine = placed(tensorrt_stages.load_rtx, "cuda:1", gpu)(bundle, "dit_step", None)
    assert isinstance(engine, TensorRtStepEngine)
    assert engine.driver is gpus.drivers[1]
    assert engine.loop.mode == "chain"
    assert engine.loop.kept == 2
    assert opened == [(1, 5)]


def test_onnx_runtime_is_told_the_gpu_and_to_compute_fp32_in_fp32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def session(path: Path, options: Any, *, providers: Any) -> Any:
        asked.append(providers)
        raise RuntimeError("no GPU here")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    load = placed(engine_loader("onnxruntime_cuda"), "cuda:1", Gpu())
    with pytest.raises(EngineError, match="no GPU here"):
        load(Bundle.open(miniature()), "signal", None)
    assert asked == [[(CUDA, {"device_id": "1", "use_tf32": "0"}), CPU]]


def test_weights_are_counted_by_what_a_number_takes() -> None:
    bundle = Bundle.open(miniature())
    found = weights_alone(bundle, {"fp32": 4.0, "int8": 1.0, "int4": 0.5})
    graphs: dict[str, GraphSpec] = dict(bundle.manifest.graphs)
    assert found.keys() == graphs.keys()
    for stage, each in {"fp32": 4, "int8": 1}.items():
        name = next(n for n, graph in graphs.items() if graph.precision == stage)
        assert found[name].weights == each * stored_values(bundle.graph_file(name))


def test_the_command_says_what_it_takes_of_the_gpu(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Recorded()
    monkeypatch.setattr("omni_rt.session.engine_loader", lambda name: engine.loader)
    more = ["--prompt", "rain", "-o", str(tiny.parent / "out.wav"), "--gpu", "1"]
    told = CliRunner().invoke(app, ["generate", "T2A", "-b", str(tiny), *more])
    assert "fake: resident takes an estimated 3.00 GB, 8.00 GB of 9.00 GB are free" in told.stderr
    told = CliRunner().invoke(app, ["generate", "T2A", "-b", str(tiny), *more[:-1], "3"])
    assert told.exit_code == 2
    assert "there is no CUDA device 3" in told.stderr
