"""The step's plan as the CUDA loop drives it, on a library and a GPU of Python (fake_gpu.py)."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from omni_rt.bundle import Bundle
from omni_rt.cuda_loop import Bucket, cuda_module
from omni_rt.encode import Context, Prepared
from omni_rt.engine_pool import EnginePool
from omni_rt.engines.tensorrt import TensorRtEngine
from omni_rt.engines.tensorrt_step import TensorRtStep, TensorRtStepEngine
from omni_rt.errors import EngineError
from omni_rt.options import Sampling
from omni_rt.plans import make_plan
from omni_rt.sampling import run_plan
from tests.runtime.fake_engine import FakeEngines

from .fake_gpu import FakeDriver, OnGpu
from .test_tensorrt import BUCKETS, CLOSE, inputs, loaded, wanted, with_engines

pytestmark = pytest.mark.usefixtures("home")

LOOPS = ("x", "t", "v")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return with_engines(tmp_path / "bundle")


def bound(engine: TensorRtEngine, driver: FakeDriver, tokens: int) -> tuple:
    """A binding for one guided request, and the loop's buffers."""
    arrays = {**inputs(), "v": np.zeros((2, 4, 6), np.float32)}
    buffers = {name: OnGpu(driver, arrays[name]) for name in LOOPS}
    bucket = Bucket(batch=1, guided=True, attending=1, tokens=tokens)
    return TensorRtStep(engine).bind_device(bucket, buffers), buffers


@pytest.mark.parametrize("tokens", [5, 8, 9])
def test_a_step_on_the_loops_stream_is_the_engines_own_run(bundle: Bundle, tokens: int) -> None:
    engine, library = loaded(bundle)
    binding, buffers = bound(engine, library.driver, tokens)
    for seed in range(2):  # another request with the same graph
        given = inputs(tokens=tokens)
        given["prepend"] += seed
        binding.fill({n: a for n, a in given.items() if n not in LOOPS})
        copied, waited = len(library.driver.uploads), library.driver.waited
        binding.enqueue(99)
        assert np.allclose(buffers["v"].numpy(), wanted(given), **CLOSE)
        assert library.contexts[-1].streams[-1] == 99
        # nothing of a captured step may copy or wait
        assert (len(library.driver.uploads), library.driver.waited) == (copied, waited)


def test_contexts_are_padded_to_what_the_plan_was_built_for(bundle: Bundle) -> None:
    engine, _ = loaded(bundle)
    assert tuple(TensorRtStep(engine).token_buckets) == BUCKETS


def test_a_binding_gives_its_memory_back(bundle: Bundle) -> None:
    engine, library = loaded(bundle)
    binding, buffers = bound(engine, library.driver, 8)
    assert len(library.driver.memory) > len(buffers)
    del binding
    gc.collect()
    assert len(library.driver.memory) == len(buffers)


def test_a_request_that_fits_no_profile_is_told_what_was_built(bundle: Bundle) -> None:
    engine, library = loaded(bundle)
    with pytest.raises(EngineError, match="fit no profile"):
        bound(engine, library.driver, 17)


class HostLoop:
    """The loop's buffers, and its calls of a step, where no CUDA is."""

    def __init__(self, driver: FakeDriver, **shape: Any) -> None:
        rows = 2 * shape["batch"]
        latents = np.zeros((rows, shape["channels"], shape["frames"]), np.float32)
        self.x, self.velocity = OnGpu(driver, latents), OnGpu(driver, latents)
        self.t, self.row_times = OnGpu(driver, latents[:, 0, 0]), list[tuple[float, float]]()

    def run(self, table: np.ndarray, enqueue: Callable[[int], None], **_: Any) -> bool:
        for _row in table:
            enqueue(99)
        return True

    def read(self) -> np.ndarray:
        return self.velocity.numpy()[:1]


@pytest.mark.parametrize("dropped", ["by the next phase", "by closing"])
def test_a_step_that_nobody_holds_frees_its_loop_its_plan_and_their_memory(
    bundle: Bundle, dropped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In staged memory a pool drops the step at each request."""
    driver, live = FakeDriver(), weakref.WeakSet[Any]()

    def load(bundle: Bundle, stage: str, threads: int | None) -> Any:
        if stage != "dit_step":
            return FakeEngines()(bundle, stage, threads)
        plan, _ = loaded(bundle, driver=driver)
        engine = TensorRtStepEngine(plan)
        live.update((plan, engine))
        return engine

    module = SimpleNamespace(Loop=lambda device, **shape: HostLoop(device, **shape))
    monkeypatch.setattr("omni_rt.cuda_loop.cuda_module", lambda: module)
    monkeypatch.setattr("omni_rt.cuda_loop.open_device", lambda *_, **__: driver)
    pool = EnginePool(bundle, threads=None, memory="staged", engine=load)
    how, noise = Sampling(plan=make_plan("euler-2"), cfg_scale=2), np.zeros(0, np.float32)
    start = np.zeros((1, 4, 6), np.float32)
    gc.disable()  # a GPU's memory is not waited for
    try:
        run_plan(pool.get("dit_step"), how, [prepared()], start=start, renoise=noise)
        assert driver.memory
        if dropped == "by closing":
            pool.close()
        else:
            pool.get("vae_decoder")
        assert (set(live), driver.memory, driver.streams) == (set(), {}, set())
    finally:
        gc.enable()


def prepared() -> Prepared:
    given = inputs()
    context = Context(keys=[given["k_00"]], values=[given["v_00"]])
    return Prepared(context=context, negative=None, prepend=given["prepend"][:1])


def test_the_step_asks_for_its_loop_alone_and_says_what_a_build_without_cuda_lacks(
    bundle: Bundle,
) -> None:
    plan, _ = loaded(bundle)
    engine = TensorRtStepEngine(plan)
    assert np.allclose(engine.run(**inputs())["v"], wanted(inputs()), **CLOSE)
    try:
        cuda_module()
    except EngineError:
        how = Sampling(plan=make_plan("euler-2"))
        nothing = np.zeros(0, np.float32)
        with pytest.raises(EngineError, match="OMNI_RT_CUDA=ON"):
            run_plan(engine, how, [], start=nothing, renoise=nothing)
    else:
        pytest.skip("omni_rt is installed with its CUDA loop")
