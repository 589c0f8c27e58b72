"""Engines by name, by entry point and as functions."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from omni_rt import EngineError, RequestError, Session
from omni_rt.bundle import Bundle
from omni_rt.doctor import examine
from omni_rt.engines import Array, BoundEngine
from omni_rt.engines.ort import CPU, CUDA, OrtEngine
from omni_rt.engines.registry import engine_loader, engine_names
from omni_rt.manifest import TensorSpec
from tests.runtime.tiny_bundle import write_tiny_bundle

from .graphs import inputs_of, write_runnable_bundle


class Constant:
    """An engine that answers one everywhere."""

    def __init__(self, bundle: Bundle, stage: str) -> None:
        self.spec = bundle.graph(stage)

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self.spec.inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self.spec.outputs

    def run(self, **inputs: Array) -> dict[str, Array]:
        return {p.name: np.ones((1, 2, 600), np.float32) for p in self.outputs}

    def bind(self, buffers: Mapping[str, Array]) -> BoundEngine:
        raise AssertionError("not bound here")


def installed(folder: Path, entry: str, module: str, *, requires: str = "") -> None:
    """A distribution `friend` in a folder, which offers one engine in its module."""
    facts = folder / "friend-1.0.dist-info"
    facts.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", "Name: friend", "Version: 1.0", requires, ""]
    (facts / "METADATA").write_text("\n".join(line for line in lines if line) + "\n")
    (facts / "entry_points.txt").write_text(f"[omni_rt.engines]\n{entry}\n")
    (folder / "friendly_engine.py").write_text(module)
    sys.modules.pop("friendly_engine", None)


def test_auto_is_onnx_runtime(tmp_path: Path) -> None:
    bundle = write_runnable_bundle(tmp_path / "bundle")
    for name in ("auto", "onnxruntime"):
        assert isinstance(engine_loader(name)(bundle, "context", None), OrtEngine)
    assert {"onnxruntime", "openvino"} <= set(engine_names())


@pytest.mark.parametrize("name", ["nope", "", "Auto", 3, None, b"auto"])
def test_what_is_no_engine_is_refused_with_the_list(name: Any) -> None:
    with pytest.raises(RequestError, match="one of auto, onnxruntime, onnxruntime_cuda, openvino"):
        engine_loader(name)


@pytest.mark.parametrize(
    ("library", "install"),
    [("openvino", r"pip install 'omni_rt\[openvino\]'"), ("onnxruntime", "pip install onnxr")],
)
def test_a_missing_library_is_told_with_what_to_install(
    library: str, install: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not there
    with pytest.raises(EngineError, match=f"{library} is not installed: {install}"):
        engine_loader(library)
    write_tiny_bundle(tmp_path / "bundle")
    with pytest.raises(EngineError, match="is not installed"):
        Session(tmp_path / "bundle", engine=library)
    (finding,) = [f for f in examine() if f.what == "engines"]
    assert library not in finding.found
    assert "is not installed" in finding.advice


def test_a_library_that_cannot_be_imported_is_an_engine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_runnable_bundle(tmp_path / "bundle")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "openvino.py").write_text("raise ImportError('libfoo.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    with pytest.raises(EngineError, match=r"context\.onnx: cannot be loaded: libfoo"):
        engine_loader("openvino")(bundle, "context", None)


def test_cuda_is_refused_by_a_library_without_it(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="built without CUDA: pip install onnxruntime-gpu"):
        engine_loader("onnxruntime_cuda")
    (finding,) = [f for f in examine() if f.what == "engines"]
    assert "onnxruntime_cuda" not in finding.found


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_graph_never_runs_on_the_processor_instead_of_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library itself only logs that its CUDA provider cannot start."""
    bundle = write_runnable_bundle(tmp_path / "bundle")
    with monkeypatch.context() as patched:
        patched.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        load = engine_loader("onnxruntime_cuda")
        with pytest.raises(EngineError, match="cannot start here"):
            load(bundle, "context", None)


def test_a_session_runs_on_the_engines_it_is_given(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    asked = []

    def load(bundle: Bundle, stage: str, threads: int | None) -> Constant:
        asked.append((bundle.directory, stage, threads))
        return Constant(bundle, stage)

    with Session(tmp_path / "bundle", engine=load, threads=3) as session:
        for _ in range(2):
            assert (session.decode(np.zeros((1, 4, 6), np.float32)) == 1).all()
    assert asked == [(tmp_path / "bundle", "vae_decoder", 3)]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_session_runs_on_the_engine_it_is_told(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    write_runnable_bundle(tmp_path / "bundle")
    latents = inputs_of("vae_decoder", B=2, frames=6)["latents"]
    with Session(tmp_path / "bundle", engine=name, threads=1) as session:
        assert session.decode(latents).shape == (2, 2, 600)


def test_another_package_can_offer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = "friend = friendly_engine:load\nonnxruntime = friendly_engine:load"
    installed(tmp_path, entry, "def load(bundle, stage, threads):\n    return stage\n")
    monkeypatch.syspath_prepend(tmp_path)
    bundle = write_runnable_bundle(tmp_path / "bundle")
    assert "friend" in engine_names()
    assert len(set(engine_names())) == len(engine_names())
    found: object = engine_loader("friend")(bundle, "context", None)
    assert found == "context"
    assert isinstance(engine_loader("onnxruntime")(bundle, "context", 1), OrtEngine)
    with pytest.raises(RequestError, match=r"friend.*or a function"):
        engine_loader("foe")


@pytest.mark.parametrize(
    ("module", "requires", "says"),
    [
        (
            "import nowhere.at_all",
            "Requires-Dist: nowhere>=2; extra == 'far'",
            r"'friend': nowhere is not installed: pip install 'friend\[far\]'",
        ),
        ("import nowhere", "Requires-Dist: nowhere-else; extra == 'far'", "pip install nowhere$"),
        ("import nowhere", "", "pip install nowhere$"),
        ("1 / 0", "", "'friend' cannot be loaded: division by zero"),
        ("", "", "'friend' cannot be loaded: .*load"),
        ("load = 3", "", "friendly_engine:load is no function"),
    ],
)
def test_a_plug_in_that_does_not_work_is_told_and_listed(
    module: str, requires: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "friend = friendly_engine:load", module, requires=requires)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=says) as caught:
        engine_loader("friend")
    assert "\n" not in str(caught.value)
    (finding,) = [f for f in examine() if f.what == "engines"]
    assert "onnxruntime" in finding.found
    assert str(caught.value) in finding.advice
