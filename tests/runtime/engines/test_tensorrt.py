"""The TensorRT engine on a library and a GPU of Python (see fake_gpu.py), and without either."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from omni_rt.bundle import Bundle
from omni_rt.engines.engine_key import identity_of, own_key, signature
from omni_rt.engines.plan_checks import profile_for
from omni_rt.engines.registry import engine_loader, engine_names
from omni_rt.engines.tensorrt import TensorRtEngine
from omni_rt.errors import BundleError, EngineError, OutOfMemoryError
from omni_rt.manifest import ProfileSpec
from tests.runtime.tiny_bundle import DIMS, rewrite, write_tiny_bundle

from .compiled import BUCKETS, signed_engines
from .fake_gpu import FakeDriver, FakeTensorRt, OnGpu

pytestmark = pytest.mark.usefixtures("home")

PLAN = b"plan of the step"
TYPES = {
    "x": "FLOAT", "t": "FLOAT", "prepend": "FLOAT", "context_bias": "HALF", "k_00": "HALF",
    "v_00": "HALF", "v": "FLOAT",
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return with_engines(tmp_path / "bundle")


def with_engines(folder: Path, *, plan: bytes = PLAN, **changes: Any) -> Bundle:
    """The tiny bundle with an engine of its step, signed by this user; `changes` come after it."""
    manifest = write_tiny_bundle(folder)
    bundle = Bundle(folder, manifest)
    engines = signed_engines(bundle, "rtx4090", ("dit_step",), "8.9", plan=plan)
    spec = replace(engines.stages["dit_step"], **changes)
    engines = replace(engines, stages={"dit_step": spec})
    rewrite(folder, manifest, engines={"rtx4090": engines})
    return Bundle.open(folder)


def step(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every input counts, and hidden tokens of a context do not."""
    seen = np.float32(given["context_bias"] > -1)
    said = seen * given["k_00"].sum((1, 3), keepdims=True)[..., 0, :, :].swapaxes(1, 2)[:, None]
    context = np.float32(said.sum() + (given["v_00"] * 0).sum())
    return {"v": given["x"] * given["t"][:, None, None] + given["prepend"].mean() + context}


def loaded(bundle: Bundle, *, rtx: bool = True, **fake: Any) -> tuple[TensorRtEngine, FakeTensorRt]:
    driver = fake.pop("driver", None) or FakeDriver()
    library = FakeTensorRt(
        driver=driver, ports=fake.pop("ports", TYPES), outputs=("v",), compute=step,
        profiles=2 * len(BUCKETS), **fake,
    )  # fmt: skip
    name = "tensorrt_rtx" if rtx else "tensorrt"
    engine = TensorRtEngine(
        bundle, "dit_step", library=library.module(rtx=rtx), name=name, driver=driver
    )
    return engine, library


def inputs(*, tokens: int = 5, rows: int = 2, queries: int = 1) -> dict[str, np.ndarray]:
    draw = np.random.RandomState(0)
    shapes = {
        "x": (rows, 4, 6), "t": (rows,), "prepend": (rows, 5, 64),
        "context_bias": (queries, 1, 1, tokens), "k_00": (queries, 2, tokens, 32),
        "v_00": (queries, 2, tokens, 32),
    }  # fmt: skip
    made = {name: draw.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    return made | {"context_bias": np.zeros(shapes["context_bias"], np.float32)}


def wanted(given: Mapping[str, np.ndarray]) -> np.ndarray:
    halves = ("context_bias", "k_00", "v_00")
    return step({n: a.astype(np.float16) if n in halves else a for n, a in given.items()})["v"]


# Sums of 320 fp16 numbers, padded with zeros or not: NumPy adds them in another order.
CLOSE = {"rtol": 1e-2, "atol": 1e-2}


@pytest.mark.parametrize("tokens", [1, 5, 8, 9, 16])
def test_contexts_are_padded_to_their_bucket_and_hidden(bundle: Bundle, tokens: int) -> None:
    engine, library = loaded(bundle)
    given = inputs(tokens=tokens)
    assert np.allclose(engine.run(**given)["v"], wanted(given), **CLOSE)
    (context,) = library.contexts
    bucket = 8 if tokens <= 8 else 16
    assert context.shapes["k_00"] == (1, 2, bucket, 32)
    assert context.profile == (1 if bucket == 8 else 3)


def test_runs_share_a_context_and_the_memory_of_copies(bundle: Bundle) -> None:
    engine, library = loaded(bundle)
    engine.run(**inputs(tokens=8))
    allocations = library.driver.allocations
    for tokens in (8, 5, 8):
        given = inputs(tokens=tokens)
        assert np.allclose(engine.run(**given)["v"], wanted(given), **CLOSE)
    assert library.driver.allocations == allocations
    assert len(library.contexts) == 1


def test_memory_of_copies_grows_with_what_is_copied(bundle: Bundle) -> None:
    engine, library = loaded(bundle)
    for tokens in (5, 9, 5):  # of two profiles
        given = inputs(tokens=tokens)
        assert np.allclose(engine.run(**given)["v"], wanted(given), **CLOSE)
    assert len(library.driver.memory) == len(TYPES)


def test_an_engine_that_nobody_holds_gives_all_back_at_once(bundle: Bundle) -> None:
    engine, library = loaded(bundle)
    bound = engine.bind({**inputs(), "v": np.zeros((2, 4, 6), np.float32)})
    bound.enqueue()
    engine.run(**inputs())
    gc.disable()  # nothing here may be in a cycle
    try:
        del bound, engine
        assert (library.driver.memory, library.driver.streams) == ({}, set())
    finally:
        gc.enable()


def test_bound_arrays_are_read_anew_at_every_run(bundle: Bundle) -> None:
    engine, _ = loaded(bundle)
    given = inputs()
    buffers = {**given, "v": np.zeros((2, 4, 6), np.float32)}
    bound = engine.bind(buffers)
    for _ in range(2):
        bound.enqueue()
        assert np.allclose(buffers["v"], wanted(given), **CLOSE)
        given["x"] += 1


def test_two_bindings_have_contexts_of_their_own(bundle: Bundle) -> None:
    engine, library = loaded(bundle)
    buffers = [{**inputs(), "v": np.zeros((2, 4, 6), np.float32)} for _ in range(2)]
    both = [engine.bind(b) for b in buffers]
    assert len(library.contexts) == len(both)


def on_gpu(driver: FakeDriver, *, tokens: int = 8) -> dict[str, Any]:
    halves = ("context_bias", "k_00", "v_00")
    arrays = {**inputs(tokens=tokens), "v": np.zeros((2, 4, 6), np.float32)}
    return {n: OnGpu(driver, a.astype(np.float16) if n in halves else a) for n, a in arrays.items()}


def test_buffers_on_the_gpu_are_bound_as_they_lie_and_run_on_a_given_stream(
    bundle: Bundle,
) -> None:
    engine, library = loaded(bundle)
    driver = library.driver
    buffers = on_gpu(driver)
    held, copied, waited = len(driver.memory), len(driver.uploads), driver.waited
    bound = engine.bind(buffers)
    waited = driver.waited
    bound.enqueue(99)
    assert library.contexts[0].streams == [99]
    assert (len(driver.memory), len(driver.uploads), driver.waited) == (held, copied, waited)
    assert library.contexts[0].addresses == {n: b.address for n, b in buffers.items()}
    assert np.allclose(buffers["v"].numpy(), wanted(inputs(tokens=8)), **CLOSE)


def test_what_is_not_on_the_gpu_cannot_run_on_a_given_stream(bundle: Bundle) -> None:
    engine, library = loaded(bundle)
    buffers = on_gpu(library.driver)
    buffers["x"] = inputs()["x"]
    with pytest.raises(EngineError, match="dit_step: on a stream, x must lie on the GPU"):
        engine.bind(buffers).enqueue(99)


@pytest.mark.parametrize("wrong", ["type", "bucket", "strides"])
def test_a_gpu_buffer_that_the_plan_cannot_read_is_named(bundle: Bundle, wrong: str) -> None:
    engine, library = loaded(bundle)
    buffers = on_gpu(library.driver, tokens=5 if wrong == "bucket" else 8)
    if wrong == "type":
        buffers["k_00"] = OnGpu(library.driver, inputs(tokens=8)["k_00"])
    if wrong == "strides":
        buffers["k_00"].strides = (1, 2, 3, 4)
    with pytest.raises(EngineError, match=r"must be contiguous float16\[1, .* got"):
        engine.bind(buffers)


@pytest.mark.parametrize("change", [{"x": None}, {"x": np.zeros((2, 4, 6))}, {"y": np.zeros(3)}])
def test_wrong_inputs_are_one_line(bundle: Bundle, change: dict) -> None:
    engine, _ = loaded(bundle)
    given = {n: a for n, a in {**inputs(), **change}.items() if a is not None}
    with pytest.raises(EngineError, match="dit_step"):
        engine.run(**given)


@pytest.mark.parametrize("sizes", [{"tokens": 17}, {"rows": 3}])
def test_sizes_of_no_profile_are_told_with_what_was_built(bundle: Bundle, sizes: dict) -> None:
    engine, _ = loaded(bundle)
    with pytest.raises(EngineError, match=r"fit no profile \(P 8 to 8.*--contexts"):
        engine.run(**inputs(**sizes))


@pytest.mark.parametrize(
    ("stage", "says"),
    [("dit_step", "omni-rt build has --contexts"), ("thinker_cond", "shorten the prompt"),
     ("vae_encoder", "ask for less")],
)  # fmt: skip
def test_what_no_option_of_the_build_changes_is_not_blamed_on_one(stage: str, says: str) -> None:
    profile = ProfileSpec(sizes={"seq": (1, 256, 4096)}, activation_bytes=1)
    spec: Any = SimpleNamespace(profiles=[profile])
    with pytest.raises(EngineError, match=says) as caught:
        profile_for(spec, stage, {"seq": 7500})
    assert f"{stage}: seq 7500 fit no profile (seq 1 to 4096)" in str(caught.value)
    assert ("--contexts" in str(caught.value)) == (stage == "dit_step")


def test_contexts_that_lie_idle_make_room_for_another_profiles(bundle: Bundle) -> None:
    engine, library = loaded(bundle)
    engine.run(**inputs(tokens=8))
    library.refusals = 1
    given = inputs(tokens=9)
    assert np.allclose(engine.run(**given)["v"], wanted(given), **CLOSE)
    engine.run(**inputs(tokens=8))
    assert [context.profile for context in library.contexts] == [1, 3, 3, 1]
    library.refusals = 2
    with pytest.raises(OutOfMemoryError, match="no room to run"):
        engine.run(**inputs(tokens=8, rows=1))
    assert np.allclose(engine.run(**given)["v"], wanted(given), **CLOSE)


def test_a_failing_run_is_an_error_and_the_next_one_works(bundle: Bundle) -> None:
    engine, library = loaded(bundle)
    library.fails = True
    with pytest.raises(EngineError, match="dit_step: it failed while running") as caught:
        engine.run(**inputs())
    assert not isinstance(caught.value, OutOfMemoryError)
    library.fails = False
    assert np.isfinite(engine.run(**inputs())["v"]).all()


def test_a_run_that_fails_for_want_of_memory_is_told_as_such(bundle: Bundle) -> None:
    engine, library = loaded(bundle)
    library.fails, library.says = True, "Error Code 2: OutOfMemory (Requested size was 8 bytes.)"
    with pytest.raises(OutOfMemoryError, match=r"it failed while running: .*Requested size"):
        engine.run(**inputs())


def test_memory_that_is_missing_at_load_is_told_as_such(bundle: Bundle) -> None:
    with pytest.raises(OutOfMemoryError, match="memory='staged'"):
        loaded(bundle, driver=FakeDriver(free_bytes=100))


@pytest.mark.parametrize(
    ("fake", "says"),
    [
        ({"driver": FakeDriver(compute_capability="12.0")}, r"this GPU is sm_120.*rtx4090.*build"),
        ({"version": "1.8.0"}, r"built by tensorrt_rtx 1.7.1, here is 1.8.0: omni-rt build"),
        ({"validity": "INVALID"}, r"OLD_CUDA_DRIVER.*driver \(CUDA 12.6\).*omni-rt build"),
        ({"driver": FakeDriver(free_bytes=100)}, r"0 MB of the GPU's memory are needed"),
        ({"rtx": False}, r"no engines of tensorrt: omni-rt build .* --target"),
        ({"ports": {**TYPES, "w": "FLOAT"}}, "the plan's ports are not the manifest's"),
        ({"ports": {**TYPES, "x": "FP4"}}, "the plan's ports are not the manifest's"),
    ],
)
def test_a_device_that_cannot_run_a_plan_is_told_what_rebuilds_it(
    bundle: Bundle, fake: dict, says: str
) -> None:
    with pytest.raises(EngineError, match=says) as caught:
        loaded(bundle, **fake)
    assert "\n" not in str(caught.value)


def test_gpu_and_version_are_checked_before_a_plan_is_opened(bundle: Bundle) -> None:
    bundle.path("engines/rtx4090/dit_step.plan").unlink()
    with pytest.raises(EngineError, match="built by"):
        loaded(bundle, version="1.8.0")


@pytest.mark.parametrize("who", ["tampered", "another stage's", "another user's", "unsigned"])
def test_a_plan_that_is_not_trusted_is_never_loaded(tmp_path: Path, who: str) -> None:
    changes: dict[str, Any] = {}
    if who == "another user's":
        changes["signature"] = signature(bytes(32), PLAN)
    elif who == "unsigned":
        changes["signature"] = ""
    elif who == "another stage's":
        changes["signature"] = signature(own_key(), PLAN, stage="context")
    bundle = with_engines(tmp_path / "other", **changes)
    if who == "tampered":
        bundle.path("engines/rtx4090/dit_step.plan").write_bytes(PLAN + b"!")
    library = FakeTensorRt(
        driver=FakeDriver(), ports=TYPES, outputs=("v",), compute=step, profiles=4
    )
    with pytest.raises(EngineError, match=r"changed, or signed by someone .*trust-key"):
        TensorRtEngine(
            bundle, "dit_step", library=library.module(), name="tensorrt_rtx", driver=library.driver
        )
    assert library.loaded == []


def test_a_plan_of_another_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="built from another graph: omni-rt build"):
        loaded(with_engines(tmp_path / "other", graph="0" * 64))


def test_a_stage_without_a_plan_is_told_with_those_that_have_one(bundle: Bundle) -> None:
    library = FakeTensorRt(driver=FakeDriver(), ports=TYPES, outputs=("v",), compute=step)
    with pytest.raises(EngineError, match=r"no engine of context .*dit_step.*omni-rt build"):
        TensorRtEngine(
            bundle, "context", library=library.module(), name="tensorrt_rtx", driver=library.driver
        )


def test_a_plan_that_the_library_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="dit_step: the plan cannot be loaded: magic number"):
        loaded(with_engines(tmp_path / "other", plan=b"broken plan"))


def test_a_changed_plan_is_found_when_the_bundle_is_opened(bundle: Bundle) -> None:
    bundle.path("engines/rtx4090/dit_step.plan").write_bytes(PLAN[::-1])
    with pytest.raises(BundleError, match=r"dit_step\.plan: its sha256"):
        Bundle.open(bundle.directory)


def test_kernels_made_here_are_kept_and_read_again_unless_they_were_changed(
    bundle: Bundle, home: Path
) -> None:
    engine, library = loaded(bundle)
    engine.run(**inputs())
    assert library.contexts[0].how.strategy == "on change"
    (kept,) = (home / "cache/omni_rt").iterdir()
    assert kept.read_bytes().endswith(b"kernels made here")

    def kernels() -> bytes:
        engine, library = loaded(bundle)
        engine.run(**inputs())
        found: bytes = library.contexts[0].how.cache.kernels
        return found

    assert kernels() == b"kernels made here"
    kept.write_bytes(kept.read_bytes()[:-3])
    assert kernels() == b""


def test_kernels_are_kept_when_some_were_made_and_not_at_every_run(
    bundle: Bundle, home: Path
) -> None:
    engine, library = loaded(bundle)
    for _ in range(3):
        engine.run(**inputs())
    assert library.serialised == 1
    (kept,) = (home / "cache/omni_rt").iterdir()
    written = kept.stat().st_mtime_ns
    engine.run(**inputs(tokens=9))  # other sizes, the same kernels
    assert library.serialised == 2
    assert kept.stat().st_mtime_ns == written
    library.kernels = b"and more"
    engine.run(**inputs(tokens=9, rows=1))
    assert kept.read_bytes().endswith(b"and more")


def of_classic(folder: Path, *, plan: bytes = PLAN) -> Bundle:
    """As `with_engines`, for TensorRT."""
    bundle = with_engines(folder, plan=plan)
    engines = bundle.manifest.engines["rtx4090"]
    own = replace(engines, library="tensorrt", version="1.7.1")
    signed = signature(own_key(), plan, **identity_of(own, "dit_step"))
    spec = replace(own.stages["dit_step"], signature=signed)
    own = replace(own, stages={"dit_step": spec})
    rewrite(bundle.directory, bundle.manifest, engines={"rtx4090": own})
    return Bundle.open(folder)


def test_classic_tensorrt_has_no_kernels_to_keep(tmp_path: Path, home: Path) -> None:
    """Since 10.9 it has a runtime configuration as TensorRT-RTX has, without a cache."""
    engine, library = loaded(of_classic(tmp_path / "orin"), rtx=False)
    engine.run(**inputs())
    assert library.contexts[0].how == "on change"
    assert not (home / "cache").exists()


@pytest.mark.parametrize("fake", [{}, {"starts": False}])
def test_classic_tensorrt_that_cannot_load_a_plan_is_told_what_rebuilds_it(
    tmp_path: Path, fake: dict
) -> None:
    """It cannot be asked whether it runs a plan, as TensorRT-RTX can."""
    bundle = of_classic(tmp_path / "orin", plan=PLAN if fake else b"broken plan")
    with pytest.raises(
        EngineError, match=r"dit_step: .*number is wrong.* driver \(CUDA 12.6\), or omni-rt build"
    ) as caught:
        loaded(bundle, rtx=False, **fake)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tensorrt_rtx", "tensorrt"])
def test_the_registry_knows_both_and_says_what_is_missing(name: str, bundle: Bundle) -> None:
    assert name in engine_names()
    if find_spec(name) is None:
        with pytest.raises(EngineError, match=rf"{name} is not installed: \S"):
            engine_loader(name)
        return
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU: what a machine without one is told cannot be seen")
    with pytest.raises(EngineError, match="no NVIDIA driver"):
        engine_loader(name)(bundle, "dit_step", None)


def test_the_step_has_the_ports_that_the_fake_has() -> None:
    """The tiny bundle's sizes, as the tests above write them out."""
    assert (DIMS.latent_channels, DIMS.latent_frames, DIMS.prepend_tokens) == (4, 6, 5)
    assert (DIMS.width, DIMS.heads, DIMS.head_width) == (64, 2, 32)
