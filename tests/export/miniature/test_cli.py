"""`omni-rt score` and `omni-rt demo` as a person or a script meets them, without a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from omni_rt import strict_json
from omni_rt.errors import BundleError
from omni_rt.export.miniature import cli
from omni_rt.export.miniature.demo import demo_examples
from omni_rt.export.miniature.report import ScoreReport
from tests.export.miniature.fake_model import MINIATURE_DIMS, FakeModel, due, silence

app = typer.Typer()
cli.commands(app)


class _Deaf(FakeModel):
    """A bundle without a tower."""

    def understand(self, *_: Any, **__: Any) -> Any:
        raise BundleError("this bundle has no 'audio_tower' stage")


def run(monkeypatch: pytest.MonkeyPatch, model: FakeModel, *arguments: object) -> Result:
    monkeypatch.setattr(cli, "open_session", lambda *_, **__: model)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_table_shows_each_check_with_its_interval_and_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = FakeModel(due(["chord", "clicks"], 3))
    result = run(
        monkeypatch, model, "score", "b", "--kinds", "chord,clicks", "--count", 3, "--seed", 5
    )
    assert result.exit_code == 0, result.output
    rows = [line.split("│")[1:-1] for line in result.stdout.splitlines() if "│" in line]
    cells = [tuple(cell.strip() for cell in row) for row in rows]
    assert ("chord", "root", "100.0", "100.0 to 100.0", "8.3", "3") in cells
    assert ("chord", "all", "100.0", "100.0 to 100.0", "2.1", "3") in cells
    assert ("clicks", "onset_error_s") in {row[:2] for row in cells}
    assert "plan euler-2, guidance 7" in result.stdout
    assert "chord: 100.0 % right" in result.stderr


def test_json_is_printed_and_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    model = FakeModel(due(["note"], 2))
    options = ("--kinds", "note", "--count", 2, "--seed", 5, "--cfg-scale", 3, "--plan", "ab3-9")
    result = run(monkeypatch, model, "score", "b", *options, "--json", "--out", out)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(out.read_text(encoding="utf-8"))
    report = strict_json.parse(ScoreReport, json.loads(result.stdout), where="scores")
    assert (report.plan, report.cfg_scale, report.seed, report.count) == ("ab3-9", 3.0, 5, 2)
    assert result.stderr == ""


def test_another_run_is_shown_beside_with_chance_and_whose_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, options = tmp_path / "before.json", ("score", "b", "--kinds", "note", "--count", 4)
    options = (*options, "--seed", 5)
    run(monkeypatch, FakeModel(due(["note"], 4)), *options, "--out", out)
    worse = (*options, "--against", out)
    beside = run(monkeypatch, FakeModel(due(["note"], 4), maker=silence), *worse)
    assert beside.exit_code == 0, beside.output
    rows = [line.split("│")[1:-1] for line in beside.stdout.splitlines() if "│" in line]
    cells = [tuple(cell.strip() for cell in row) for row in rows]
    assert ("note", "100.0", "0.0", "1.0", "100.0", "100.0") in cells
    words = " ".join(beside.stdout.split())
    assert "before: fake fake (plan euler-2, guidance 7, onnxruntime), this model itself" in words
    told = run(monkeypatch, FakeModel(due(["note"], 4), maker=silence), *worse, "--json")
    found = json.loads(told.stdout)["against"]
    assert found["relation"] == "itself"
    note = found["kinds"]["note"]
    assert (note["reference"], note["share"]) == (1.0, 0.0)
    assert (note["drop"], note["upper"]) == (100.0, 100.0)
    assert 0 < note["chance"] < 0.1
    held = run(monkeypatch, FakeModel(due(["note"], 4), maker=silence), *worse, "--max-drop", 2)
    assert held.exit_code == 1
    assert "may have lost more than 2 points: note" in held.stderr


def test_another_run_of_other_examples_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And one without a kind in common holds nothing to --max-drop."""
    out, options = tmp_path / "before.json", ("score", "b", "--count", 2, "--seed", 5)
    run(monkeypatch, FakeModel(due(["note"], 2)), *options, "--kinds", "note", "--out", out)
    model = FakeModel(due(["note"], 3))
    other = run(monkeypatch, model, "score", "b", "--count", 3, "--seed", 5, "--against", out)
    assert other.exit_code == 2
    assert "are of other examples" in other.stderr
    assert model.requests == []
    held = ("--kinds", "clicks", "--against", out, "--max-drop", 2)
    nothing = run(monkeypatch, FakeModel(due(["clicks"], 2)), *options, *held)
    assert nothing.exit_code == 2
    assert "no kind was scored in both runs" in nothing.stderr


def test_a_run_goes_on_with_what_it_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept, options = tmp_path / "kept", ("--count", 2, "--seed", 5, "--scores", tmp_path / "kept")
    once = run(monkeypatch, FakeModel(due(["note"], 2)), "score", "b", "--kinds", "note", *options)
    assert once.exit_code == 0, once.output
    assert [path.name.rpartition("-")[0] for path in kept.iterdir()] == ["euler-2-note"]
    model = FakeModel(due(["clicks"], 2))  # asked for no note any more
    both = run(monkeypatch, model, "score", "b", "--kinds", "note,clicks", *options, "--json")
    assert both.exit_code == 0, both.output
    report = strict_json.parse(ScoreReport, json.loads(both.stdout), where="scores")
    assert [k.status for k in report.kinds] == ["scored", "scored"]
    (tmp_path / "file").write_text("")
    taken = run(monkeypatch, FakeModel([]), "score", "b", "--scores", tmp_path / "file")
    assert taken.exit_code == 2
    assert "cannot keep scores in" in taken.stderr


def test_what_the_bundle_lacks_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--kinds", "note,ask_note,ask_way", "--count", 1, "--seed", 5)
    result = run(monkeypatch, _Deaf(due(["note"], 1)), "score", "b", *options)
    assert result.exit_code == 0, result.output
    assert "no scores for ask_note, ask_way: this bundle has no 'audio_tower'" in result.stdout
    nothing = run(monkeypatch, _Deaf([]), "score", "b", "--kinds", "ask_note", "--count", 1)
    assert nothing.exit_code == 2
    assert "'audio_tower'" in nothing.stdout
    assert nothing.stderr.endswith("error: nothing could be scored\n")


def test_errors_come_before_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = FakeModel([], dims=replace(MINIATURE_DIMS, sample_rate_hz=44_100))
    cases: list[tuple[FakeModel, tuple[object, ...], str]] = [
        (other, ("score", "b"), "8000 Hz"),
        (other, ("demo", "b", "--out", tmp_path / "demo"), "8000 Hz"),
        (FakeModel([]), ("score", "b", "--kinds", "bird"), "unknown kinds bird"),
        (FakeModel([]), ("score", "b", "--count", 10**11), "count must be 1 to 10000"),
        (FakeModel([]), ("score", "b", "--plan", "euler"), "euler"),
        (FakeModel([]), ("score", "b", "--cfg-scale", "nan"), "cfg_scale"),
        (FakeModel([]), ("score", "b", "--out", tmp_path / "x.csv"), "cannot write x.csv"),
        (FakeModel([]), ("score", "b", "--out", tmp_path / "no" / "x.json"), "no folder"),
    ]
    for model, arguments, said in cases:
        result = run(monkeypatch, model, *arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert said in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "demo").exists()


def test_the_demo_says_what_it_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def model() -> FakeModel:
        return FakeModel(list(demo_examples(7).values()))

    result = run(monkeypatch, model(), "demo", "b", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    for word in ("speech.wav", "words right", "residual right", "spectrograms.png"):
        assert word in result.stdout
    told = json.loads(run(monkeypatch, model(), "demo", "b", "--out", tmp_path, "--json").stdout)
    assert told["made"][-1]["right"] == {"residual": True, "kept": True}


def test_the_demo_takes_the_bundles_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = FakeModel(list(demo_examples(7).values()))
    assert run(monkeypatch, model, "demo", "b", "--out", tmp_path).exit_code == 0
    assert model.plans == [None]


def test_without_a_bundle_it_is_the_packaged_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise BundleError("no miniature comes with this installation")

    monkeypatch.setattr("omni_rt.packaged.miniature", nowhere)
    for command in ("score", "demo"):
        result = run(monkeypatch, FakeModel([]), command)
        assert result.exit_code == 2
        assert "no miniature" in result.stderr
