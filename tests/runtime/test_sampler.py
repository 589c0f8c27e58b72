"""The C++ loop does what its rows say: the NumPy executor gives the same bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_rt._core import Sampler
from omni_rt.plans import make_plan

from .numpy_executor import Floats, execute, mixed

PLANS = ("euler-5", "ab2-5", "ab3-6", "abm2-6", "heun-4", "dpmpp2m-6", "consistency-4")
NO_NOISE = np.zeros(0, np.float32)


def velocity(x: Floats, t: np.float32) -> Floats:
    """Depends on x, t, the place and the branch; plain arithmetic, so no library picks the bits."""
    place = np.arange(x.size, dtype=np.float32).reshape(x.shape) % np.float32(13)
    return x * np.float32(0.7) - x * t * np.float32(0.3) + place * np.float32(0.1)


def start_of(batch: int, channels: int, frames: int) -> Floats:
    noise = np.random.default_rng(batch + channels + frames)
    return noise.standard_normal((batch, channels, frames), dtype=np.float32)


def run(
    sampler: Sampler,
    table: NDArray[np.float64],
    start: Floats,
    *,
    renoise: Floats = NO_NOISE,
    cfg_scale: float = 1.0,
    rescale: float = 0.0,
    on_row: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> bool:
    def evaluate() -> None:
        sampler.velocity[:] = velocity(sampler.x, sampler.t[0])

    sampler.x[: len(start)] = start
    return sampler.run(
        table,
        evaluate,
        renoise=renoise,
        cfg_scale=cfg_scale,
        rescale=rescale,
        on_row=on_row,
        cancelled=cancelled,
    )


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("shape", [(1, 4, 64), (1, 1, 1), (2, 3, 70), (3, 5, 129)])
def test_every_plan_gives_the_bits_of_the_numpy_executor(
    name: str, guided: bool, shape: tuple[int, int, int]
) -> None:
    plan, start = make_plan(name), start_of(*shape)
    noise = np.random.default_rng(1).standard_normal((plan.renoise_rows, *shape), dtype=np.float32)
    sampler = Sampler(batch=shape[0], channels=shape[1], frames=shape[2], guided=guided)
    assert run(sampler, plan.table(), start, renoise=noise, cfg_scale=7.0)
    expected = execute(plan.table(), start, velocity, guided=guided, cfg_scale=7.0, renoise=noise)
    assert np.array_equal(sampler.x[: shape[0]], expected)


def test_rows_that_use_every_column_give_the_bits_of_the_numpy_executor() -> None:
    rng = np.random.default_rng(2)
    table, start = rng.uniform(-1, 1, (6, 8)), start_of(2, 3, 70)
    table[[1, 4], 7] = 0
    noise = rng.standard_normal((4, *start.shape), dtype=np.float32)
    sampler = Sampler(batch=2, channels=3, frames=70, guided=True)
    run(sampler, table, start, renoise=noise, cfg_scale=2.5)
    expected = execute(table, start, velocity, guided=True, cfg_scale=2.5, renoise=noise)
    assert np.array_equal(sampler.x[:2], expected)


@pytest.mark.parametrize("frames", [1, 64, 70, 129])
@pytest.mark.parametrize("phi", [0.3, 1.0])
def test_rescaled_guidance_equals_its_formula_to_rounding(frames: int, phi: float) -> None:
    start = start_of(2, 8, frames)
    sampler = Sampler(batch=2, channels=8, frames=frames, guided=True)
    table = np.array([[1, 0, 1, 0, 1, 0, 0, 0]], np.float64)  # x' = v
    run(sampler, table, start, cfg_scale=7.0, rescale=phi)
    conditional, other = np.split(velocity(np.concatenate([start, start]), np.float32(1)), 2)
    expected = mixed(
        conditional.astype(np.float64), other.astype(np.float64), cfg_scale=7.0, rescale=phi
    )
    # one fp32 rounding (6e-8) of v ≈ 10 per operation, about ten of them
    assert np.allclose(sampler.x[:2], expected, rtol=2e-6, atol=6e-6)


def test_phi_zero_is_plain_guidance() -> None:
    table, start = make_plan("ab2-4").table(), start_of(1, 1, 5)  # one channel: its std is 0
    sampler = Sampler(batch=1, channels=1, frames=5, guided=True)
    run(sampler, table, start, cfg_scale=3.0, rescale=0.0)
    expected = execute(table, start, velocity, guided=True, cfg_scale=3.0)
    assert np.array_equal(sampler.x[:1], expected)


def test_an_item_does_not_depend_on_its_batch() -> None:
    table, start = make_plan("abm2-5").table(), start_of(3, 2, 70)

    def alone(x: Floats, t: np.float32) -> Floats:
        return x * np.float32(0.7) + t

    sampler = Sampler(batch=3, channels=2, frames=70, guided=False)
    sampler.x[:] = start

    def evaluate() -> None:
        sampler.velocity[:] = alone(sampler.x, sampler.t[0])

    sampler.run(table, evaluate, renoise=NO_NOISE, cfg_scale=1.0, rescale=0.0)
    for i in range(3):
        expected = execute(table, start[i : i + 1], alone, guided=False)
        assert np.array_equal(sampler.x[i : i + 1], expected)


def test_on_row_counts_every_row() -> None:
    seen: list[tuple[int, int]] = []
    sampler = Sampler(batch=1, channels=2, frames=3, guided=False)
    run(
        sampler,
        make_plan("heun-3").table(),
        start_of(1, 2, 3),
        on_row=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i + 1, 5) for i in range(5)]


def test_cancelled_stops_before_the_next_evaluation() -> None:
    seen: list[int] = []
    sampler = Sampler(batch=1, channels=2, frames=3, guided=True)
    finished = run(
        sampler,
        make_plan("euler-9").table(),
        start_of(1, 2, 3),
        on_row=lambda done, _: seen.append(done),
        cancelled=lambda: len(seen) == 2,
    )
    assert not finished
    assert seen == [1, 2]


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("where", ["evaluate", "on_row", "cancelled"])
def test_a_callbacks_exception_propagates_and_the_sampler_runs_again(
    where: str, error: BaseException
) -> None:
    table, start = make_plan("ab3-4").table(), start_of(1, 2, 5)
    sampler = Sampler(batch=1, channels=2, frames=5, guided=False)
    calls: list[str] = []

    def fail(*_: object) -> bool:
        calls.append(where)
        if len(calls) == 3:
            raise error
        return False

    callbacks = {"evaluate": lambda: None, "on_row": None, "cancelled": None, where: fail}
    with pytest.raises(type(error)):
        sampler.run(table, renoise=NO_NOISE, cfg_scale=1.0, rescale=0.0, **callbacks)
    assert run(sampler, table, start)
    assert np.array_equal(sampler.x, execute(table, start, velocity, guided=False))


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((2, 8), np.float32),
        np.zeros((2, 8), np.int64),
        np.zeros((8, 2), np.float64).T,
        np.zeros((4, 8), np.float64)[::2],
        [[0.0] * 8],
    ],
    ids=["float32", "int64", "transposed", "strided", "list"],
)
def test_rows_of_another_kind_are_no_hidden_copy(rows: NDArray[np.float64]) -> None:
    sampler = Sampler(batch=1, channels=2, frames=3, guided=False)
    with pytest.raises(TypeError):
        run(sampler, rows, start_of(1, 2, 3))


def test_noise_of_another_type_is_no_hidden_copy() -> None:
    sampler = Sampler(batch=1, channels=2, frames=3, guided=False)
    noise = np.zeros((1, 1, 2, 3), np.float64)
    with pytest.raises(TypeError):
        run(sampler, make_plan("consistency-2").table(), start_of(1, 2, 3), renoise=noise)


@pytest.mark.parametrize("shape", [(0, 8), (8,), (2, 7), (2, 9), (1, 2, 8)])
def test_only_rows_of_eight_columns_are_taken(shape: tuple[int, ...]) -> None:
    sampler = Sampler(batch=1, channels=2, frames=3, guided=False)
    if shape == (0, 8):
        assert run(sampler, np.zeros(shape), start_of(1, 2, 3))
    else:
        with pytest.raises(ValueError, match="rows must be float64"):
            run(sampler, np.zeros(shape), start_of(1, 2, 3))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_noise_of_another_size_is_refused(count: int) -> None:
    sampler = Sampler(batch=1, channels=2, frames=3, guided=False)
    noise = np.zeros((count, 1, 2, 3), np.float32)
    with pytest.raises(ValueError, match="renoise"):
        run(sampler, make_plan("consistency-3").table(), start_of(1, 2, 3), renoise=noise)


@pytest.mark.parametrize("empty", ["batch", "channels", "frames"])
def test_a_shape_without_elements_is_refused(empty: str) -> None:
    with pytest.raises(ValueError, match="at least one element"):
        Sampler(**{"batch": 1, "channels": 1, "frames": 1, "guided": False, empty: 0})


def test_views_keep_their_sampler_alive() -> None:
    x = Sampler(batch=1, channels=2, frames=3, guided=True).x
    assert x.shape == (2, 2, 3)
    assert x.dtype == np.float32
    x[:] = 1
    assert x.sum() == 12


def test_views_share_the_samplers_memory() -> None:
    sampler = Sampler(batch=2, channels=2, frames=3, guided=True)
    sampler.x[1, 1, 2] = 5
    assert sampler.x[1, 1, 2] == 5
    assert sampler.t.shape == (4,)
    assert sampler.velocity.shape == (4, 2, 3)


def test_times_of_a_run_are_its_own() -> None:
    sampler = Sampler(batch=1, channels=2, frames=3, guided=False)
    run(sampler, make_plan("euler-3").table(), start_of(1, 2, 3))
    assert 0 < sampler.engine_s <= sampler.total_s
    assert run(sampler, np.zeros((0, 8)), start_of(1, 2, 3))
    assert sampler.engine_s == 0
