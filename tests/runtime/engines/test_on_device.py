"""Compiled engines measured on a GPU of Python, and what the bundle says of them afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from omni_rt import Session, UncertifiedWarning, on_device
from omni_rt.bundle import Bundle
from omni_rt.certificate_page import certificate_page
from omni_rt.cli import app
from omni_rt.engines.tensorrt import TensorRtEngine
from omni_rt.errors import BundleError, EngineError, RequestError
from omni_rt.export.engines.bundle_engines import added_to
from omni_rt.targets import narrow_bound
from omni_rt.verify import STAGE_BOUND, measure_stage
from tests.runtime.tiny_bundle import DIMS, rewrite

from .compiled import BUCKETS, write_compiled_bundle
from .fake_gpu import FakeDriver, FakeTensorRt
from .test_tensorrt import TYPES, inputs, step

pytestmark = pytest.mark.usefixtures("home")

FP16 = narrow_bound("float16", "dit_step", DIMS)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A step with engines for two targets, and what its reference puts out."""
    made = write_compiled_bundle(tmp_path / "bundle", stages=("dit_step",))
    given = inputs(tokens=BUCKETS[0])
    keys = {name: given.pop(name) for name in ("k_00", "v_00")}
    np.savez(made.path("parity/context.npz"), **keys)
    np.savez(made.path("parity/dit_step.npz"), **step({**given, **keys}), **given)
    parity = {"context": "parity/context.npz", "dit_step": "parity/dit_step.npz"}
    rewrite(made.directory, made.manifest, parity=parity)
    return Bundle.open(made.directory)


class Gpu:
    """A GPU whose plan of the step is right, or off by a part of everything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, off: float = 0.0) -> None:
        def compute(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: value * np.float32(1 + off) for name, value in step(given).items()}

        driver = FakeDriver()
        self.library = FakeTensorRt(
            driver=driver, ports=TYPES, outputs=("v",), compute=compute, profiles=4
        ).module()
        monkeypatch.setattr(on_device, "library_named", lambda name: self.library)
        monkeypatch.setattr(on_device, "CudaDriver", lambda: driver)
        monkeypatch.setattr("omni_rt.verify.engine_loader", lambda engine: self.load)
        monkeypatch.setattr("omni_rt.cli.engine_loader", lambda engine: self.load)
        self.driver = driver

    def load(self, bundle: Bundle, stage: str, threads: int | None) -> TensorRtEngine:
        return TensorRtEngine(
            bundle, stage, library=self.library, name="tensorrt_rtx", driver=self.driver
        )


def verify(bundle: Bundle, *more: str) -> Any:
    return CliRunner().invoke(app, ["verify", str(bundle.directory), "--device", *more])


def test_what_was_measured_is_kept_for_the_target_of_this_gpu_alone(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gpu(monkeypatch)
    told = verify(bundle)
    assert told.exit_code == 0, told.output
    after = Bundle.open(bundle.directory)
    engines = after.manifest.engines
    found = engines["rtx4090"].on_device
    assert found is not None
    assert (found.device, found.driver, list(found.stages)) == ("fake", "12.6", ["dit_step/v"])
    assert 0 < found.stages["dit_step/v"].rel_l2 < found.stages["dit_step/v"].bound_rel_l2
    assert engines["rtx4090"].known == "measured on fake, CUDA 12.6"
    assert engines["rtx5090"] == bundle.manifest.engines["rtx5090"]
    forgotten = {**engines, "rtx4090": replace(engines["rtx4090"], on_device=None)}
    assert replace(after.manifest, engines=forgotten) == bundle.manifest
    after.require_certificate()
    after.require_on_device("tensorrt_rtx")
    page = certificate_page(after)
    assert "measured on fake, CUDA 12.6" in page
    assert "compiled and proved, not run" in page


def test_engines_that_are_out_of_bounds_are_kept_as_such_and_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gpu(monkeypatch, off=0.05)
    told = verify(bundle)
    assert told.exit_code == 1
    assert "out of bounds: dit_step/v" in told.stderr
    after = Bundle.open(bundle.directory)
    after.require_certificate()
    with pytest.raises(BundleError, match=r"engines for rtx4090 are out of bounds on fake"):
        after.require_on_device("tensorrt_rtx")
    monkeypatch.setattr("omni_rt.session.engine_loader", lambda engine: lambda *_: None)
    with pytest.raises(BundleError, match="dit_step/v; build them again"):
        Session(after.directory, engine="tensorrt_rtx")
    with pytest.warns(UncertifiedWarning, match="out of bounds on"):
        Session(after.directory, engine="tensorrt_rtx", allow_uncertified=True)
    Session(after.directory, engine="tensorrt")  # another library's engines are another matter
    Gpu(monkeypatch)
    assert verify(bundle).exit_code == 0
    Bundle.open(bundle.directory).require_on_device("tensorrt_rtx")


def test_engines_that_are_built_again_are_not_measured(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gpu(monkeypatch)
    verify(bundle)
    before = Bundle.open(bundle.directory).manifest.engines["rtx4090"]
    new = replace(before, on_device=None, stages={})
    assert added_to(before, new) == replace(before, on_device=None)


def test_engines_that_were_replaced_meanwhile_are_not_overwritten(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(monkeypatch)
    here = on_device.engines_here(bundle)
    found = on_device.measured_here(bundle, here, lambda stage: gpu.load(bundle, stage, None))
    fewer = {"rtx4090": bundle.manifest.engines["rtx4090"]}
    rewrite(bundle.directory, bundle.manifest, engines=fewer)
    with pytest.raises(BundleError, match="has other engines now"):
        on_device.keep(bundle, here, found)


@pytest.mark.parametrize(
    ("engine", "error", "said"),
    [
        ("onnxruntime", RequestError, "--device measures compiled engines"),
        ("tensorrt", EngineError, "this bundle has no engines of tensorrt: omni-rt build"),
    ],
)
def test_engines_that_are_not_compiled_are_not_measured(
    bundle: Bundle, engine: str, error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gpu(monkeypatch)
    with pytest.raises(error, match=said):
        on_device.engines_here(bundle, engine)


def test_another_gpu_and_a_bundle_without_engines_say_what_builds_them(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gpu(monkeypatch)
    with pytest.raises(EngineError, match=r"this GPU is sm_86.*omni-rt build"):
        on_device.engines_here(bundle, driver=FakeDriver(compute_capability="8.6"))
    rewrite(bundle.directory, bundle.manifest, engines={})
    with pytest.raises(EngineError, match="this bundle has no engines: omni-rt build"):
        on_device.engines_here(Bundle.open(bundle.directory))


def test_16_bits_are_added_to_the_bound_of_fp32(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FP16 is not None
    engine = Gpu(monkeypatch).load(bundle, "dit_step", None)
    narrow = measure_stage(bundle, "dit_step", engine)["dit_step/v"]
    assert narrow.bound_rel_l2 == pytest.approx(STAGE_BOUND + FP16[0])
    assert "float16" in narrow.origin
    wide = measure_stage(bundle, "dit_step", _Wide(engine))["dit_step/v"]
    assert wide.bound_rel_l2 == STAGE_BOUND


class _Wide:
    """An engine that says nothing of its types."""

    def __init__(self, engine: TensorRtEngine) -> None:
        self.inputs, self.outputs, self.run = engine.inputs, engine.outputs, engine.run
        self.bind = engine.bind


def test_bf16_may_add_eight_times_what_fp16_may() -> None:
    assert FP16 is not None
    found = narrow_bound("bfloat16", "dit_step", DIMS)
    assert found is not None
    assert found[0] == 8 * FP16[0]
    assert narrow_bound("float32", "dit_step", DIMS) is None
