"""Two bundles side by side: what is equal has no difference, what differs is found, and where."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_rt import BundleError, EngineError, RequestError
from omni_rt.bundle import Bundle
from omni_rt.compare import Compared, Settings, compare
from omni_rt.compare_page import compare_page
from omni_rt.compare_tables import tables
from omni_rt.comparison import Budgets, Comparison, judged
from omni_rt.manifest import Dims
from omni_rt.strict_json import to_json
from tests.runtime.fake_engine import FakeEngines, changed, reference_arrays, transformer_bundle
from tests.runtime.tiny_bundle import DIMS, graph_of


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni_rt.compare_steps.PAUSE_S", 0.0)


def compared(a: Bundle, b: Bundle | None, **settings: Any) -> Compared:
    given = {"engine": FakeEngines(), "runs": 2} | ({} if b is None else {"plan": "euler-2"})
    return compare(a, b, Settings(**{**given, **settings}))


def test_a_bundle_is_no_different_from_itself(tmp_path: Path) -> None:
    a, b = transformer_bundle(tmp_path / "a"), transformer_bundle(tmp_path / "b")
    found = compared(a, b).comparison
    assert set(found.outputs) == {
        "context/k",
        "context/v",
        "dit_step/v",
        "vae_decoder/waveform",
        "context+dit_step/v",
    }
    assert all(d.rel_l2 == 0 and d.snr_db is None for d in found.outputs.values())
    assert [v.t for v in found.velocity] == [1.0, 0.5]
    assert all(v.rel_l2 == v.guided_rel_l2 == 0 for v in found.velocity)
    (made,) = found.made
    assert made.latents.rel_l2 == 0
    assert made.sound is not None
    assert (made.sound.lsd_db, made.sound.stft) == (0, 0)
    assert made.sound.log_mel_cosine == pytest.approx(1)
    assert found.size_ratio == found.graphs_ratio == 1
    zero = Budgets(max_stage_error=0, max_velocity_error=0, max_latent_error=0, max_lsd_db=0)
    assert all(verdict.passed for verdict in judged(found, zero))


@pytest.mark.parametrize("gain", [0.9, 1.01, 2.0])
def test_a_gain_of_the_transformer_is_found(gain: float, tmp_path: Path) -> None:
    a, b = transformer_bundle(tmp_path / "a"), transformer_bundle(tmp_path / "b", gain=gain)
    found = compared(a, b, cfg_scale=1.0).comparison
    assert found.outputs["context/k"].rel_l2 == 0
    assert found.outputs["dit_step/v"].rel_l2 == pytest.approx(abs(gain - 1), rel=0.2)
    assert found.outputs["dit_step/v"] == found.outputs["context+dit_step/v"]
    assert found.velocity[0].rel_l2 == pytest.approx(abs(gain - 1), rel=0.2)
    assert all(v.guided_rel_l2 == v.rel_l2 > 0 for v in found.velocity)
    assert found.made[0].latents.rel_l2 > 0
    assert found.made[0].sound is not None
    assert found.made[0].sound.lsd_db > 0


def test_bundles_that_are_folded_differently_are_compared_as_a_pair(tmp_path: Path) -> None:
    a = transformer_bundle(tmp_path / "a")
    b = transformer_bundle(tmp_path / "b", folded=True)
    found = compared(a, b).comparison
    assert set(found.outputs) == {"vae_decoder/waveform", "context+dit_step/v"}
    assert all(d.rel_l2 < 1e-6 for d in found.outputs.values())
    assert found.made[0].latents.rel_l2 < 1e-6
    assert [note.split(":")[0] for note in found.notes[:2]] == ["context", "dit_step"]
    same = transformer_bundle(tmp_path / "c", folded=True)
    assert "context/v" in compared(b, same).comparison.outputs


def test_steps_are_timed_in_turns(tmp_path: Path) -> None:
    a, b = transformer_bundle(tmp_path / "a"), transformer_bundle(tmp_path / "b")
    engines = FakeEngines()
    found = compared(a, b, engine=engines, runs=3).comparison
    turn = ["a dit_step"] * 2 + ["b dit_step"] * 2  # one not timed, one timed
    assert engines.asked[: 3 * len(turn)] == 3 * turn
    for side in (found.a, found.b):
        assert side is not None
        assert side.step is not None
        assert side.step.runs == 3
        assert 0 < side.step.min_s <= side.step.p50_s
        assert all(facts.load_s is not None for facts in side.stages.values())
    assert found.step_ratio is not None


def test_without_a_second_bundle_the_reference_is_what_counts(tmp_path: Path) -> None:
    found = compared(transformer_bundle(tmp_path / "a"), None).comparison
    assert found.b is None
    assert found.plan == "euler-2"
    assert found.cfg_scale == 3
    assert all(d.rel_l2 < 1e-6 for d in found.outputs.values())
    assert found.made[0].latents.rel_l2 < 1e-6
    assert found.velocity == ()
    off = compared(transformer_bundle(tmp_path / "off", gain=1.1), None).comparison
    assert off.outputs["context/k"].rel_l2 == 0
    assert off.outputs["dit_step/v"].rel_l2 > 0.05
    assert off.made[0].latents.rel_l2 > 0.01


@pytest.mark.parametrize(
    "given",
    [{"plan": "euler-2"}, {"cfg_scale": 1.0}, {"seed": 3}, {"prompts": ("rain",)}, {"runs": 0}],
)
def test_what_the_reference_fixed_cannot_be_chosen(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=next(iter(given))):
        compared(transformer_bundle(tmp_path / "a"), None, **given)


def with_dims(bundle: Bundle, dims: Dims) -> Bundle:
    return Bundle(bundle.directory, replace(bundle.manifest, dims=dims))


def test_bundles_of_different_models_are_refused(tmp_path: Path) -> None:
    a = transformer_bundle(tmp_path / "a")
    b = with_dims(a, replace(DIMS, width=128, depth=2))
    with pytest.raises(RequestError, match="different models: width 64 and 128, depth 1 and 2"):
        compared(a, b)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"plan": "dance-7"}, "dance-7"),
        ({"cfg_scale": float("nan")}, "cfg_scale"),
        ({"seed": -1}, "seed"),
        ({"threads": 0}, "threads"),
        ({"prompts": ("rain",)}, "prompts need the stages"),
        ({"engine": "steam"}, "steam"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(
    given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    a = transformer_bundle(tmp_path / "a")
    with pytest.raises(RequestError, match=words):
        compared(a, a, **given)


@pytest.mark.parametrize("stage", ["context", "dit_step", "vae_decoder"])
def test_values_that_are_not_finite_are_one_error(stage: str, tmp_path: Path) -> None:
    a = transformer_bundle(tmp_path / "a")
    for second in (None, a):
        with pytest.raises(EngineError, match=rf"{a.directory}: {stage} gave NaN or infinite"):
            compared(a, second, engine=FakeEngines(broken=stage))


@pytest.mark.filterwarnings("ignore:overflow")
def test_latents_that_explode_name_their_bundle(tmp_path: Path) -> None:
    a, b = transformer_bundle(tmp_path / "a"), transformer_bundle(tmp_path / "b", gain=1e10)
    with pytest.raises(EngineError, match=rf"{b.directory}: plan euler-8 .*NaN or infinite"):
        compared(a, b, plan="euler-8")


def test_parity_data_that_lack_an_array_are_one_error(tmp_path: Path) -> None:
    a = transformer_bundle(tmp_path / "a")
    arrays = reference_arrays()["context"]
    np.savez(tmp_path / "a/parity/context.npz", **{k: v for k, v in arrays.items() if k != "v_00"})
    with pytest.raises(BundleError, match="parity data of 'context' lack v_00"):
        compared(changed(a), None)
    np.savez(tmp_path / "a/parity/context.npz", k_00=arrays["k_00"])
    with pytest.raises(BundleError, match="parity data of 'context' lack hidden"):
        compared(changed(a), changed(a))


def test_what_only_one_has_is_noted(tmp_path: Path) -> None:
    a = transformer_bundle(tmp_path / "a")
    b = transformer_bundle(tmp_path / "b", graphs={"context": graph_of("context")})
    found = compared(a, b).comparison
    assert set(found.outputs) == {"context/k", "context/v"}
    assert found.made == found.velocity == ()
    for words in ("dit_step: only A", "vae_decoder: only A", "velocities: ", "latents and sound: "):
        assert any(note.startswith(words) for note in found.notes)


def test_without_parity_data_there_is_nothing_to_compare_but_the_sides(tmp_path: Path) -> None:
    a = transformer_bundle(tmp_path / "a", parity={})
    for second in (a, None):
        found = compared(a, second).comparison
        assert found.outputs == {}
        assert found.a.size_bytes > found.a.graphs_bytes > 0
        assert all(v.worst is None for v in judged(found, Budgets(max_latent_error=9e9)))


def a_comparison(tmp_path: Path) -> Comparison:
    a, b = transformer_bundle(tmp_path / "a"), transformer_bundle(tmp_path / "b", gain=1.1)
    return compared(a, b).comparison


def test_budgets_are_met_at_the_worst_that_was_found_and_missed_beside_it(tmp_path: Path) -> None:
    found = a_comparison(tmp_path)
    names = Budgets.__dataclass_fields__
    for name in names:
        (verdict,) = judged(found, Budgets(**{name: 0.5}))
        worst = verdict.worst
        assert worst is not None
        assert judged(found, Budgets(**{name: worst}))[0].passed
        side = -1 if name.startswith("max") else 1
        (missed,) = judged(found, Budgets(**{name: worst + side * 1e-6}))
        assert not missed.passed
        assert missed.budget == "--" + name.replace("_", "-")
        assert missed.where in str(missed)
    assert judged(found, Budgets()) == ()


def test_a_budget_that_nothing_was_measured_for_is_missed(tmp_path: Path) -> None:
    found = replace(a_comparison(tmp_path), b=None, outputs={}, velocity=(), made=())
    budgets = Budgets(**dict.fromkeys(Budgets.__dataclass_fields__, 1.0))
    assert [v.passed for v in judged(found, budgets)] == [False] * 8
    assert "not measured" in str(judged(found, budgets)[0])


def test_tables_and_pages_tell_what_was_found(tmp_path: Path) -> None:
    a, b = transformer_bundle(tmp_path / "a"), transformer_bundle(tmp_path / "b", gain=1.1)
    for second in (b, None):
        found = compared(a, second)
        told = json.loads(json.dumps(to_json(found.comparison), allow_nan=False))
        assert told["a"]["stages"]["dit_step"]["precision"] == "fp32"
        for table in tables(found.comparison):
            assert {len(row) for row in table.rows} == {len(table.columns)}
        verdicts = judged(found.comparison, Budgets(max_latent_error=-1))
        page = compare_page(found, verdicts)
        assert "MISSED" in page
        assert page.count("data:image/png") == 2
        assert ("velocities over time" in page) == (second is not None)


def test_guidance_of_one_runs_one_row(tmp_path: Path) -> None:
    a = transformer_bundle(tmp_path / "a")
    found = compared(a, a, cfg_scale=1.0).comparison
    assert found.cfg_scale == 1
    assert len(found.velocity) == 2


@pytest.mark.parametrize("plan", ["consistency-2", "own-3"])
def test_plans_that_draw_noise_and_plans_of_the_bundle_work(plan: str, tmp_path: Path) -> None:
    a = transformer_bundle(tmp_path / "a")
    found = compared(a, a, plan=plan).comparison
    assert found.made[0].latents.rel_l2 == 0
