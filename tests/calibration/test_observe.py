"""Laws of observing: all that was read counts, interruptions do not, and what is broken is named.

Through NVIDIA's Model Optimizer, whose import alone takes some seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from omni_rt.audio import Audio
from omni_rt.calibration import observe as observing
from omni_rt.calibration.graph_writer import StageGraph
from omni_rt.calibration.inputs import CalibrationSet, Case
from omni_rt.calibration.observe import Observer, observe
from omni_rt.calibration.ranges import MOST_ROWS, Ranges
from omni_rt.calibration.trajectories import Course, Trajectory, run_case
from omni_rt.errors import EngineError, ExportError
from omni_rt.export.reference.engine import TorchEngine
from omni_rt.session import Session
from omni_rt.tasks import GENERATION, make_request
from tests.calibration.small import (
    miniature_sizes,
    miniature_stage,
    parity_inputs,
    quick_miniature,
)

pytest.importorskip("modelopt")

OBSERVED = ("context", "dit_step")
GUIDED = Course(cfg_scale=3.0, own_plan=None)


def case_of(name: str, seed: int, **given: str) -> Case:
    task = name.partition("/")[0]
    request = make_request(task, given, among=GENERATION)
    return Case(
        name=name, task=task, request=request, question=None, audio=None, video=None, seed=seed
    )


CASES = (
    case_of("T2A/0", 1, prompt="three clicks"),
    case_of("T2M/0", 2, prompt="a low note"),
    case_of("T2A/1", 3, prompt="noise that gets louder"),
)
SET = CalibrationSet(cases=CASES, digest="three", left_out={})


def observed(
    path: Path,
    *,
    inputs: CalibrationSet = SET,
    stages: tuple[str, ...] = OBSERVED,
    progress: Callable[[str], None] = lambda _: None,
) -> Ranges:
    return observe(
        quick_miniature(),
        inputs,
        stages,
        path=path,
        sampled=2,
        steps=1,
        course=GUIDED,
        progress=progress,
    )


def test_without_cases_there_is_nothing_to_observe(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no cases to observe"):
        observed(tmp_path / "ranges.npz", inputs=replace(SET, cases=()))
    assert not (tmp_path / "ranges.npz").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ranges]:
    """One run over all cases, uninterrupted."""
    path = tmp_path_factory.mktemp("observed") / "ranges.npz"
    return path, observed(path)


class Interrupted(Exception):  # noqa: N818  as Ctrl-C would be
    pass


def stopping_at(case: str) -> Callable[[str], None]:
    def progress(line: str) -> None:
        if case in line:
            raise Interrupted

    return progress


def assert_same(found: Ranges, whole: Ranges) -> None:
    assert found.done == whole.done
    assert found.graphs == whole.graphs
    assert found.layers.keys() == whole.layers.keys()
    for stage, layers in whole.layers.items():
        assert found.layers[stage].keys() == layers.keys()
        for name, own in layers.items():
            read = found.layers[stage][name]
            np.testing.assert_array_equal(read.channel_max, own.channel_max, err_msg=name)
            assert read.output_max == own.output_max, name
            assert read.rows.shape[1] == own.rows.shape[1]


def test_every_case_is_observed_once_and_the_file_says_so(whole: tuple[Path, Ranges]) -> None:
    path, ranges = whole
    assert ranges.done == tuple(case.name for case in CASES)
    assert ranges.graphs == {s: quick_miniature().graph_digest(s) for s in OBSERVED}
    assert_same(Ranges.read(path), ranges)


def test_all_matrices_have_a_range_that_covers_their_rows(whole: tuple[Path, Ranges]) -> None:
    _, ranges = whole
    for stage, layers in ranges.layers.items():
        module = miniature_stage(stage)
        first = {names[0] for names in StageGraph(quick_miniature(), stage).groups()}
        assert len(first) < len(layers)  # queries, keys and values read the same
        widths = {
            module.official_name(f"{path}.weight"): layer.in_features
            for path, layer in module.module.named_modules()
            if isinstance(layer, nn.Linear)
        }
        assert layers.keys() == widths.keys()
        for name, layer in layers.items():
            assert layer.channel_max.shape == (widths[name],)
            assert layer.rows.shape[1] == widths[name]
            assert len(layer.rows) <= MOST_ROWS
            assert bool(len(layer.rows)) == (name in first)
            assert (np.abs(layer.rows) <= layer.channel_max * (1 + 1e-6)).all()
            assert layer.output_max > 0


@pytest.mark.parametrize("at", ["T2M/0", "T2A/1"])
def test_an_interrupted_run_that_is_gone_on_with_is_as_good_as_another(
    tmp_path: Path, whole: tuple[Path, Ranges], at: str
) -> None:
    path = tmp_path / "ranges.npz"
    with pytest.raises(Interrupted):
        observed(path, progress=stopping_at(at))
    lines: list[str] = []
    assert_same(observed(path, progress=lines.append), whole[1])
    assert len(lines) == len(CASES) - [case.name for case in CASES].index(at)


def test_a_finished_file_is_taken_without_running_anything(
    whole: tuple[Path, Ranges], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("ran")

    monkeypatch.setattr(observing, "run_case", never)
    assert_same(observed(whole[0]), whole[1])


@pytest.mark.parametrize("done", [0, 1, 2])
def test_how_far_a_case_is_sampled_does_not_depend_on_interruptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Path, Ranges], done: int
) -> None:
    """Of each task one through four steps or more, the next through one."""
    plans: dict[str, object] = {}

    def planned(_: object, case: Case, **how: object) -> None:
        plans[case.name] = how["plan"]

    monkeypatch.setattr(observing, "run_case", planned)
    path, names = tmp_path / "ranges.npz", tuple(case.name for case in CASES)
    if done:
        begun = f"{SET.digest}, 1 cases of 4 steps, guidance 3"
        replace(whole[1], done=names[:done], inputs=begun).write(path)
    observe(
        quick_miniature(), SET, OBSERVED, path=path, sampled=1, steps=4, course=GUIDED,
        progress=lambda _: None,
    )  # fmt: skip
    whole_run = {"T2A/0": "euler-4", "T2M/0": "euler-5", "T2A/1": "euler-1"}
    assert plans == {name: whole_run[name] for name in names[done:]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": replace(SET, digest="others")}, "other inputs"),
        ({"stages": ("context",)}, "other graphs"),
        ({"stages": (*OBSERVED, "thinker_cond")}, "other graphs"),
    ],
)
def test_a_file_of_something_else_is_refused(
    whole: tuple[Path, Ranges], change: dict[str, object], message: str
) -> None:
    before = whole[0].read_bytes()
    with pytest.raises(ExportError, match=f"ranges.npz was observed on {message}"):
        observed(whole[0], **change)  # type: ignore[arg-type]
    assert whole[0].read_bytes() == before


def test_a_file_of_other_settings_is_refused(whole: tuple[Path, Ranges]) -> None:
    with pytest.raises(ExportError, match=r"other --sampled, --steps or --cfg-scale"):
        observe(
            quick_miniature(), SET, OBSERVED, path=whole[0], sampled=2, steps=2, course=GUIDED,
            progress=lambda _: None,
        )  # fmt: skip


def test_a_graph_that_changed_since_is_refused(tmp_path: Path, whole: tuple[Path, Ranges]) -> None:
    path, ranges = tmp_path / "ranges.npz", whole[1]
    replace(ranges, graphs={**ranges.graphs, "dit_step": "0" * 64}).write(path)
    with pytest.raises(ExportError, match="other graphs"):
        observed(path)


def test_a_damaged_file_is_refused_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "ranges.npz"
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ExportError, match="holds no observed ranges"):
        observed(path)
    assert path.read_bytes() == b"PK\x03\x04 and no more"


def context_inputs(*, first: float | None = None) -> dict[str, np.ndarray]:
    inputs = {n: v.copy() for n, v in parity_inputs("context").items()}
    if first is not None:
        inputs["hidden"][0, 0, 0] = first
    return inputs


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_error_that_names_the_layer(value: float) -> None:
    observer = Observer(quick_miniature(), ["context"], miniature_sizes())
    engine = observer.engine(quick_miniature(), "context", None)

    def run() -> None:
        engine.run(**context_inputs())
        engine.run(**context_inputs(first=value))

    with pytest.raises(ExportError, match=r"NaN or infinite activations at .*omni_prompt"):
        observer.watch(run)


def test_an_output_that_overflows_is_an_error_that_names_the_layer() -> None:
    """All that the last projections read is finite; what one makes of it is not."""
    observer = Observer(quick_miniature(), ["context"], miniature_sizes())
    engine = observer.engine(quick_miniature(), "context", None)
    assert isinstance(engine, TorchEngine)
    engine.stage.module.layers[1].cross_attn.to_v.weight.mul_(1e38)
    with pytest.raises(ExportError, match=r"at .*layers\.1\.cross_attn\.to_v$"):
        observer.watch(lambda: void(engine.run(**context_inputs())))


def void(_: object) -> None:
    return


def test_a_run_over_what_is_not_finite_saves_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second case breaks: the first one's ranges stay, and say that only it is done."""
    real = observing.run_case

    def breaking(session: object, case: Case, **how: object) -> object:
        made = real(session, case, **how)  # type: ignore[arg-type]
        if case.name == "T2M/0":
            engine = session._pipeline._pool.get("context")  # type: ignore[attr-defined]
            engine.run(**context_inputs(first=np.nan))
        return made

    monkeypatch.setattr(observing, "run_case", breaking)
    path = tmp_path / "ranges.npz"
    with pytest.raises(ExportError, match="NaN or infinite"):
        observed(path, stages=("context",))
    left = Ranges.read(path)
    assert left.done == ("T2A/0",)
    assert all(
        np.isfinite(layer.channel_max).all() and np.isfinite(layer.rows).all()
        for layer in left.layers["context"].values()
    )


def test_modules_compute_exactly_what_they_did_while_they_are_observed() -> None:
    observer = Observer(quick_miniature(), ["context"], miniature_sizes())
    engine = observer.engine(quick_miniature(), "context", None)
    found: list[dict[str, np.ndarray]] = [engine.run(**context_inputs())]
    observer.watch(lambda: found.append(engine.run(**context_inputs())))
    for name, value in found[0].items():
        assert np.array_equal(value, found[1][name])


def test_channel_maxima_are_those_of_all_that_was_read() -> None:
    observer = Observer(quick_miniature(), ["context"], miniature_sizes())
    engine = observer.engine(quick_miniature(), "context", None)
    read: dict[str, list[Tensor]] = {}
    made: dict[str, list[Tensor]] = {}
    stage = miniature_stage("context")
    for path, layer in stage.module.named_modules():
        if isinstance(layer, nn.Linear):
            name = stage.official_name(f"{path}.weight")
            layer.register_forward_hook(
                lambda _, given, out, name=name: (
                    (  # type: ignore[misc]
                        read.setdefault(name, []).append(given[0].flatten(0, -2)),
                        made.setdefault(name, []).append(out),
                    )[:0]
                    or None
                )
            )
    calls = [context_inputs(), context_inputs(first=3.0), context_inputs(first=-5.0)]

    def run() -> None:
        for call in calls:
            engine.run(**call)

    observer.watch(run)
    for call in calls:
        stage.module(*(torch.from_numpy(call[p.name]) for p in stage.ports.inputs))
    seen = observer.seen()["context"]
    assert seen.keys() == read.keys()
    for name, layer in seen.items():
        rows = torch.cat(read[name])
        np.testing.assert_allclose(layer.channel_max, rows.abs().amax(0).numpy(), rtol=1e-5)
        np.testing.assert_allclose(layer.low, rows.amin(0).numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.high, rows.amax(0).numpy(), rtol=1e-5, atol=1e-6)
        assert layer.output_max == pytest.approx(
            max(float(out.abs().max()) for out in made[name]), rel=1e-5
        )
        nearest = torch.cdist(torch.from_numpy(layer.rows), rows).amin(1)
        assert (nearest <= 1e-2 * rows.norm(dim=1).mean()).all()  # they are rows that were read


def test_kept_rows_are_spread_evenly_over_all_calls() -> None:
    rows = observing._Rows(seed=0, keeps=True)
    calls = 3000
    for i in range(calls):
        rows(nn.Identity(), (torch.full((2, 5, 3), float(i)),))
    kept = rows.sample(3)
    assert MOST_ROWS / 3 <= len(kept) <= MOST_ROWS
    quarters = Counter((kept[:, 0] // (calls / 4)).astype(int).tolist())
    assert set(quarters) == {0, 1, 2, 3}
    assert max(quarters.values()) <= 1.6 * min(quarters.values())


def test_of_few_calls_more_rows_are_kept() -> None:
    """What a language model's head reads once an answer is as well known as what a step reads."""
    rows = observing._Rows(seed=0, keeps=True)
    for i in range(24):
        rows(nn.Identity(), (torch.full((1, 200, 3), float(i)),))
    kept = rows.sample(3)
    assert len(kept) == MOST_ROWS
    of_each = Counter(kept[:, 0].tolist()).values()
    assert max(of_each) - min(of_each) <= 2


def test_few_rows_are_all_kept() -> None:
    rows = observing._Rows(seed=0, keeps=True)
    given = torch.arange(12.0).reshape(4, 3)
    rows(nn.Identity(), (given,))
    assert np.array_equal(rows.sample(3), given.numpy())


def test_a_case_that_an_engine_breaks_down_on_is_named() -> None:
    def broken(*_: object) -> object:
        raise EngineError("out of order")

    with (
        Session(quick_miniature().directory, engine=broken, allow_uncertified=True) as session,  # type: ignore[arg-type]
        pytest.raises(ExportError, match="T2A/0: out of order"),
    ):
        run_case(session, CASES[0], plan="euler-1", cfg_scale=1.0)


def test_silence_is_a_sound() -> None:
    """A trajectory's sound at full peak, also where there is none."""
    nothing = np.zeros((2, 8), np.float32)
    made = Trajectory(case="c", noise=nothing, latents=nothing, sound=nothing, rate_hz=8000)
    assert isinstance(made.audio, Audio)
    assert not made.audio.samples.any()
