"""The CUDA loop as Python sees it, on a device that is the processor: same bits, typed errors,
arrays by DLPack, callbacks that raise."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_rt.errors import EngineError, OutOfMemoryError
from omni_rt.plans import make_plan

from .cuda_host import built_module, host_module
from .numpy_executor import Floats, execute
from .test_sampler import PLANS, start_of, velocity


@pytest.fixture(name="host")
def host_fixture() -> ModuleType:
    return host_module()


def loop_of(host: ModuleType, shape: tuple[int, ...], *, guided: bool = True) -> Any:
    batch, channels, frames = shape
    return host.Loop(
        host.HostDevice(), batch=batch, channels=channels, frames=frames, guided=guided
    )


def enqueue_velocity(host: ModuleType, loop: Any) -> Callable[[int], None]:
    x, t, v = (np.from_dlpack(a) for a in (loop.x, loop.t, loop.velocity))

    def compute() -> None:
        writable(v)[:] = velocity(x, t[0])

    return lambda stream: host.submit(stream, compute)


def writable(view: NDArray[Any]) -> NDArray[np.float32]:
    """The same memory: NumPy may make a view of a capsule read-only."""
    pointer = ctypes.cast(view.ctypes.data, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, view.shape)


def run(host: ModuleType, loop: Any, name: str, start: Floats, **changes: Any) -> bool:
    plan = make_plan(name)
    noise = np.random.default_rng(1).standard_normal((plan.renoise_rows, *start.shape))
    given = {
        "start": start,
        "renoise": noise.astype(np.float32),
        "cfg_scale": 7.0,
        "rescale": 0.0,
        **changes,
    }
    enqueue = given.pop("enqueue", None) or enqueue_velocity(host, loop)
    finished: bool = loop.run(plan.table(), enqueue, **given)
    return finished


def executed(name: str, start: Floats, *, guided: bool = True) -> Floats:
    plan = make_plan(name)
    noise = np.random.default_rng(1).standard_normal((plan.renoise_rows, *start.shape))
    return execute(
        plan.table(),
        start,
        velocity,
        guided=guided,
        cfg_scale=7.0,
        renoise=noise.astype(np.float32),
    )


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("mode", ["replay", "chain", "enqueue"])
def test_every_plan_gives_the_bits_of_the_numpy_executor(
    host: ModuleType, name: str, guided: bool, mode: str
) -> None:
    start = start_of(2, 3, 70)
    loop = loop_of(host, start.shape, guided=guided)
    assert run(host, loop, name, start, mode=mode)
    assert np.array_equal(loop.read(), executed(name, start, guided=guided))


def test_replays_never_touch_python(host: ModuleType) -> None:
    start = start_of(1, 2, 5)
    loop, calls = loop_of(host, start.shape), []
    inner = enqueue_velocity(host, loop)

    def enqueue(stream: int) -> None:
        calls.append(stream)
        inner(stream)

    for _ in range(3):
        assert run(host, loop, "euler-20", start, enqueue=enqueue)
    assert len(calls) == 2  # to warm up, and while it was captured
    assert loop.graphs == 1


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [1, 2])
def test_a_callback_that_raises_during_warm_up_or_capture_leaves_a_usable_loop(
    host: ModuleType, error: BaseException, call: int
) -> None:
    start = start_of(1, 2, 5)
    loop, calls = loop_of(host, start.shape), []
    inner = enqueue_velocity(host, loop)

    def enqueue(stream: int) -> None:
        calls.append(stream)
        if len(calls) == call:
            raise error
        inner(stream)

    with pytest.raises(type(error)):
        run(host, loop, "ab2-4", start, enqueue=enqueue)
    assert run(host, loop, "ab2-4", start)
    assert np.array_equal(loop.read(), executed("ab2-4", start))


@pytest.mark.parametrize("where", ["on_row", "cancelled"])
def test_an_observer_that_raises_leaves_a_usable_loop(host: ModuleType, where: str) -> None:
    start = start_of(1, 2, 5)
    loop = loop_of(host, start.shape)

    def fail(*_: object) -> bool:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run(host, loop, "ab2-4", start, **{where: fail})
    assert run(host, loop, "ab2-4", start)
    assert np.array_equal(loop.read(), executed("ab2-4", start))


def test_whoever_cancels_waits_for_one_row(host: ModuleType) -> None:
    start, told = start_of(1, 2, 5), list[int]()
    loop = loop_of(host, start.shape)
    finished = run(
        host,
        loop,
        "euler-9",
        start,
        on_row=lambda done, _: told.append(done),
        cancelled=lambda: len(told) == 2,
    )
    assert not finished
    assert told == [1, 2]


def test_memory_that_is_missing_is_a_typed_error_that_says_how_much(host: ModuleType) -> None:
    device = host.HostDevice(memory_bytes=1 << 20)
    with pytest.raises(
        OutOfMemoryError, match=r"2.0 MiB wanted, 1.0 MiB of 1.0 MiB free, 1.0 MiB mis"
    ):
        host.Loop(device, batch=1, channels=1024, frames=512, guided=False)
    with pytest.raises(EngineError, match="out of device memory"):
        device.empty((1 << 20,), "float32")
    free, total = device.memory
    assert free == total == 1 << 20


def test_a_second_thread_is_refused_while_a_loop_runs(host: ModuleType) -> None:
    start, refusals = start_of(1, 2, 5), list[str]()
    loop = loop_of(host, start.shape)

    def intrude() -> None:
        try:
            run(host, loop, "euler-2", start)
        except EngineError as error:
            refusals.append(str(error))

    def on_row(done: int, _: int) -> None:
        if done == 1:
            thread = threading.Thread(target=intrude)
            thread.start()
            thread.join()

    assert run(host, loop, "euler-4", start, on_row=on_row)
    assert refusals == ["this loop is running already: one thread at a time"]
    assert np.array_equal(loop.read(), executed("euler-4", start))


def test_a_forked_child_is_refused(host: ModuleType) -> None:
    device = host.HostDevice()
    device.forked = True
    with pytest.raises(EngineError, match="forked"):
        host.Loop(device, batch=1, channels=2, frames=3, guided=False)
    with pytest.raises(EngineError, match="forked"):
        device.empty((2,), "float32")


def test_arrays_are_shared_by_dlpack_and_keep_their_loop_alive(host: ModuleType) -> None:
    start = start_of(2, 3, 5)
    loop = loop_of(host, start.shape)
    assert (loop.x.shape, loop.t.shape, loop.x.dtype) == ((4, 3, 5), (4,), "float32")
    assert loop.x.__dlpack_device__() == (1, 0)
    assert run(host, loop, "euler-3", start)
    latents = np.from_dlpack(loop.latents)
    wanted = loop.read()
    del loop
    gc.collect()
    assert np.array_equal(latents, wanted)
    assert latents.shape == (2, 3, 5)


def test_an_array_is_written_whole_or_not_at_all(host: ModuleType) -> None:
    array = host.HostDevice().empty((2, 3), "float32")
    assert np.array_equal(np.from_dlpack(array), np.zeros((2, 3)))
    array.write(np.arange(6, dtype=np.float32))
    assert np.array_equal(np.from_dlpack(array).ravel(), np.arange(6))
    for wrong in (np.zeros(5, np.float32), np.zeros((6, 2), np.float32)[:, 0]):
        with pytest.raises(ValueError, match="24 bytes"):
            array.write(wrong)


def test_memory_of_the_processor_has_no_cuda_array_interface(host: ModuleType) -> None:
    assert not hasattr(host.HostDevice().empty((2,), "float32"), "__cuda_array_interface__")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "backwards"}, "mode must be"),
        ({"renoise": np.zeros((1, 1, 2, 5), np.float32)}, "renoise must hold"),
    ],
)
def test_what_does_not_fit_is_refused(
    host: ModuleType, changes: dict[str, Any], message: str
) -> None:
    loop = loop_of(host, (1, 2, 5))
    with pytest.raises(ValueError, match=message):
        run(host, loop, "euler-3", start_of(1, 2, 5), **changes)


def test_a_start_of_another_size_is_refused(host: ModuleType) -> None:
    with pytest.raises(ValueError, match="start must be"):
        run(host, loop_of(host, (1, 2, 5)), "euler-3", start_of(1, 2, 4))


def test_an_engines_type_is_one_of_three(host: ModuleType) -> None:
    with pytest.raises(ValueError, match="float32, float16 or bfloat16, got int8"):
        host.HostDevice().empty((2,), "int8")


def test_the_cuda_module_loads_without_a_driver_and_says_that_there_is_none() -> None:
    cuda = built_module("_cuda", how="make cuda")
    with pytest.raises(EngineError, match=r"driver|no CUDA device|there is no CUDA device 99"):
        cuda.CudaDevice(99)


def _child_uses(device: Any, answers: Any) -> None:
    try:
        device.empty((2,), "float32")
    except EngineError as error:
        answers.put(str(error))


def test_a_real_fork_is_detected_on_a_gpu() -> None:
    cuda = built_module("_cuda", how="make cuda")
    try:
        device = cuda.CudaDevice()
    except EngineError as error:
        pytest.skip(str(error))
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_child_uses, args=(device, answers))
    child.start()
    child.join()
    assert "forked after CUDA was initialised" in answers.get()
