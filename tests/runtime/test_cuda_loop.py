"""Which shapes are captured, kept and let go, on a device that is the processor."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from omni_rt.cuda_loop import (
    KEPT_SHAPES,
    TOKEN_BUCKETS,
    Bucket,
    CudaLoop,
    cuda_module,
    padded_tokens,
)
from omni_rt.encode import Context, Floats, Prepared
from omni_rt.errors import Cancelled, EngineError, OutOfMemoryError
from omni_rt.options import Sampling
from omni_rt.plans import make_plan
from omni_rt.sampling import run_plan

from .cuda_host import host_module
from .fake_engine import FakeEngine, FakeEngines, transformer_bundle
from .tiny_bundle import DIMS

SHAPE = (DIMS.latent_channels, DIMS.latent_frames)
NO_NOISE = np.zeros((0,), np.float32)


def prepared(tokens: int, seed: int = 0, *, negative: bool = False) -> Prepared:
    stream = np.random.RandomState(seed)

    def normal(*shape: int) -> Floats:
        return stream.standard_normal(shape).astype(np.float32)

    def context() -> Context:
        shape = (1, DIMS.heads, tokens, DIMS.head_width)
        return Context(keys=[normal(*shape)], values=[normal(*shape)])

    prepend = normal(1, DIMS.prepend_tokens, DIMS.width)
    return Prepared(context=context(), negative=context() if negative else None, prepend=prepend)


def start_of(batch: int) -> Floats:
    noise = np.random.RandomState(batch).standard_normal((batch, *SHAPE))
    return noise.astype(np.float32)


@dataclass
class Step:
    """The tiny bundle's step on the processor's stream, and what was bound."""

    host: ModuleType
    engine: FakeEngine
    dtype: str = "float32"
    token_buckets: Sequence[int] = TOKEN_BUCKETS
    bound: list[Bucket] = field(default_factory=list)

    def bind_device(self, bucket: Bucket, buffers: Mapping[str, Any]) -> Binding:
        self.bound.append(bucket)
        return Binding(self, {name: np.from_dlpack(a) for name, a in buffers.items()})


@dataclass
class Binding:
    step: Step
    buffers: dict[str, Any]
    inputs: dict[str, Floats] = field(default_factory=dict)

    def fill(self, inputs: Mapping[str, Floats]) -> None:
        self.inputs.update(inputs)

    def enqueue(self, stream: int) -> None:
        compute = weakref.WeakMethod(self.compute)  # a graph of a device keeps no Python alive

        def work() -> None:
            method = compute()
            assert method is not None
            method()

        self.step.host.submit(stream, work)

    def compute(self) -> None:
        given = {"x": self.buffers["x"], "t": self.buffers["t"], **self.inputs}
        v = np.ascontiguousarray(self.step.engine.run(**given)["v"], np.float32)
        ctypes.memmove(self.buffers["v"].ctypes.data, v.ctypes.data, v.nbytes)


@pytest.fixture(name="step")
def step_fixture(tmp_path: Any) -> Step:
    bundle = transformer_bundle(tmp_path / "bundle")
    return Step(host=host_module(), engine=FakeEngines()(bundle, "dit_step", None))


def loop_on(step: Step, **changes: Any) -> CudaLoop:
    device = changes.pop("device", None) or step.host.HostDevice()
    return CudaLoop(step, device, step.host, **changes)


def sample(loop: CudaLoop, requests: list[Prepared], plan: str = "ab2-4", **how: Any) -> Floats:
    sampling = Sampling(plan=make_plan(plan), **how)
    latents, _ = loop.sample(sampling, requests, start=start_of(len(requests)), renoise=NO_NOISE)
    return latents


def on_the_processor(step: Step, requests: list[Prepared], plan: str = "ab2-4", **how: Any) -> Any:
    sampling = Sampling(plan=make_plan(plan), **how)
    latents, _ = run_plan(
        step.engine, sampling, requests, start=start_of(len(requests)), renoise=NO_NOISE
    )
    return latents


@pytest.mark.parametrize("mode", ["replay", "chain", "enqueue"])
@pytest.mark.parametrize("cfg_scale", [1.0, 7.0])
@pytest.mark.parametrize("negative", [False, True])
def test_the_loop_on_a_device_makes_the_processors_latents(
    step: Step, mode: Any, cfg_scale: float, negative: bool
) -> None:
    requests = [prepared(320, seed, negative=negative) for seed in range(2)]
    loop = loop_on(step, mode=mode)
    made = sample(loop, requests, cfg_scale=cfg_scale, rescale=0.5)
    assert np.array_equal(made, on_the_processor(step, requests, cfg_scale=cfg_scale, rescale=0.5))


def test_a_loop_of_an_engines_own_is_asked_instead_of_binding_it(step: Step) -> None:
    how = Sampling(plan=make_plan("ab2-4"), cfg_scale=7.0)
    engine: Any = SimpleNamespace(loop=loop_on(step))
    requests = [prepared(320)]
    made, times = run_plan(engine, how, requests, start=start_of(1), renoise=NO_NOISE)
    assert np.array_equal(made, on_the_processor(step, requests, cfg_scale=7.0))
    assert times.total_s > 0


def test_contexts_of_one_bucket_share_a_graph_and_others_do_not(step: Step) -> None:
    device = step.host.HostDevice()
    loop = loop_on(step, device=device)
    for tokens in (5, 300, 320):
        sample(loop, [prepared(tokens)])
    assert len(step.bound) == device.captures == 1
    sample(loop, [prepared(321)])
    sample(loop, [prepared(5)], cfg_scale=1.0)
    sample(loop, [prepared(5)] * 2)
    sample(loop, [prepared(5, negative=True)])
    assert device.captures == 5
    assert [(b.rows, b.attending, b.tokens) for b in step.bound] == [
        (2, 1, 320),
        (2, 1, 384),
        (1, 1, 320),
        (4, 2, 320),
        (2, 2, 320),
    ]


def test_the_shape_used_longest_ago_is_let_go(step: Step) -> None:
    loop = loop_on(step, kept=2)
    for tokens in (320, 384, 320, 512):
        sample(loop, [prepared(tokens)])
    assert [bucket.tokens for bucket in loop.shapes] == [320, 512]
    sample(loop, [prepared(320)])
    assert len(step.bound) == 3
    assert KEPT_SHAPES >= 2
    loop.release()
    assert loop.shapes == ()


def test_other_shapes_make_room_where_memory_runs_out(step: Step) -> None:
    one = step.host.HostDevice()
    kept = loop_on(step, device=one)
    sample(kept, [prepared(320)])
    free, total = one.memory
    small = step.host.HostDevice(memory_bytes=(total - free) * 3 // 2)
    loop = loop_on(step, device=small)
    for tokens in (320, 384, 320):
        sample(loop, [prepared(tokens)])
        assert len(loop.shapes) == 1
    with pytest.raises(OutOfMemoryError, match="out of device memory"):
        sample(loop, [prepared(320)] * 16)
    assert np.isfinite(sample(loop, [prepared(320)])).all()


@pytest.mark.parametrize("where", ["bind", "enqueue"])
def test_other_shapes_make_room_for_a_steps_own_memory(
    step: Step, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its inputs when it is bound, and of what it takes when it first runs and is captured."""
    device = step.host.HostDevice()
    loop = loop_on(step, device=device)
    known = [prepared(320)]
    sample(loop, known)
    bind, enqueue = step.bind_device, Binding.enqueue

    def check_room() -> None:
        if len(loop.shapes) > (0 if where == "bind" else 1):
            raise OutOfMemoryError("no room beside others")

    def crowded_bind(bucket: Bucket, buffers: Mapping[str, Any]) -> Binding:
        check_room()
        return bind(bucket, buffers)

    def crowded_enqueue(binding: Binding, stream: int) -> None:
        check_room()
        enqueue(binding, stream)

    if where == "bind":
        step.bind_device = crowded_bind  # type: ignore[method-assign]
    else:
        monkeypatch.setattr(Binding, "enqueue", crowded_enqueue)
    made = sample(loop, [prepared(384)])
    assert np.array_equal(made, on_the_processor(step, [prepared(384)]))
    assert [bucket.tokens for bucket in loop.shapes] == [384]
    assert np.array_equal(sample(loop, known), on_the_processor(step, known))


def test_what_does_not_fit_alone_is_told_and_tried_once(step: Step) -> None:
    loop, tried = loop_on(step), list[Bucket]()

    def never(bucket: Bucket, buffers: Mapping[str, Any]) -> Binding:
        tried.append(bucket)
        raise OutOfMemoryError("no room at all")

    step.bind_device = never  # type: ignore[method-assign]
    with pytest.raises(OutOfMemoryError, match="no room at all"):
        sample(loop, [prepared(5)])
    assert len(tried) == 1


def test_an_error_that_is_not_of_memory_lets_no_shape_go(step: Step) -> None:
    device = step.host.HostDevice()
    loop, bind = loop_on(step, device=device), step.bind_device
    sample(loop, [prepared(320)])

    def no_profile(bucket: Bucket, buffers: Mapping[str, Any]) -> Binding:
        raise EngineError("fits no profile")

    step.bind_device = no_profile  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="fits no profile"):
        sample(loop, [prepared(384)])
    step.bind_device = bind  # type: ignore[method-assign]
    sample(loop, [prepared(320)])
    assert device.captures == 1


def test_cancelling_raises_and_the_loop_goes_on(step: Step) -> None:
    loop, cancel, told = loop_on(step), threading.Event(), list[int]()

    def on_step(done: int, _: int) -> None:
        told.append(done)
        cancel.set()

    how = Sampling(plan=make_plan("euler-9"), cancel=cancel)
    with pytest.raises(Cancelled):
        loop.sample(how, [prepared(5)], start=start_of(1), renoise=NO_NOISE, on_step=on_step)
    assert told == [1]
    assert np.array_equal(sample(loop, [prepared(320)]), on_the_processor(step, [prepared(320)]))


def test_threads_take_turns(step: Step) -> None:
    loop, made = loop_on(step), dict[int, Floats]()

    def work(seed: int) -> None:
        made[seed] = sample(loop, [prepared(320, seed)], "euler-30")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, latents in made.items():
        assert np.array_equal(latents, on_the_processor(step, [prepared(320, seed)], "euler-30"))
    assert len(made) == 4


def test_a_step_that_fails_is_an_error_and_no_more(step: Step) -> None:
    loop = loop_on(step)
    bind = step.bind_device

    def broken(bucket: Bucket, buffers: Mapping[str, Any]) -> Binding:
        raise EngineError("no kernel for this shape")

    step.bind_device = broken  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="no kernel"):
        sample(loop, [prepared(5)])
    step.bind_device = bind  # type: ignore[method-assign]
    assert np.isfinite(sample(loop, [prepared(5)])).all()


def test_long_plans_of_a_chaining_loop_are_replayed(step: Step) -> None:
    device = step.host.HostDevice()
    loop = loop_on(step, device=device, mode="chain")
    sample(loop, [prepared(320)], "euler-16")
    assert device.launches == 1
    sample(loop, [prepared(320)], "euler-17")
    assert device.launches == 18


def test_times_of_a_run_are_its_own(step: Step) -> None:
    loop = loop_on(step)
    how = Sampling(plan=make_plan("euler-5"))
    _, times = loop.sample(how, [prepared(5)], start=start_of(1), renoise=NO_NOISE)
    assert len(loop.row_times) == 5
    assert 0 < times.engine_s <= times.total_s


@pytest.mark.parametrize(
    ("tokens", "padded"), [(1, 320), (320, 320), (321, 384), (2304, 2304), (2305, 2305)]
)
def test_contexts_are_padded_to_buckets(tokens: int, padded: int) -> None:
    assert padded_tokens(tokens, TOKEN_BUCKETS) == padded


def test_a_step_that_was_built_for_some_contexts_gets_these(step: Step) -> None:
    step.token_buckets = (24, 40)
    loop = loop_on(step)
    for tokens in (20, 30):
        sample(loop, [prepared(tokens)])
    assert [bucket.tokens for bucket in step.bound] == [24, 40]


def test_a_build_without_cuda_says_how_to_get_it() -> None:
    try:
        cuda_module()
    except EngineError as error:
        assert "OMNI_RT_CUDA=ON" in str(error)  # noqa: PT017  either may be installed
    else:
        pytest.skip("omni_rt is installed with its CUDA loop")
