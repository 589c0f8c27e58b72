"""`omni-rt quantise` and its neighbours, as far as they go without a model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from omni_rt import miniature
from omni_rt.bundle import Bundle
from omni_rt.calibration import cli as quantise_cli
from omni_rt.calibration.quantise import QuantiseOptions
from omni_rt.errors import ExportError
from omni_rt.export.miniature.paired import read_report
from omni_rt.strict_json import to_json
from tests.conftest import REPOSITORY

_APP = typer.Typer()
quantise_cli.commands(_APP)
_REFUSED = "cannot round the weights alone of b: no such matrix is rounded"


@pytest.mark.parametrize(
    "arguments",
    [
        ("quantise", "bundle", "--target", "cpu", "--out", "out"),
        ("sizes", "--config", "config.json"),
    ],
)
def test_a_missing_library_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(quantise_cli, "find_spec", lambda name: None if name == "torch" else name)
    result = CliRunner().invoke(_APP, list(arguments))
    assert result.exit_code == 2
    assert result.stderr.strip() == "error: torch is missing: pip install 'omni_rt[quantise]'"


def test_names_on_the_command_line_are_what_is_kept_or_rounded_in_its_weights_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[QuantiseOptions] = []

    def refuse(options: QuantiseOptions, **_: Any) -> Path:
        asked.append(options)
        raise ExportError(_REFUSED)

    monkeypatch.setattr("omni_rt.calibration.quantise.quantise_bundle", refuse)
    names = ("--keep", "a", "--weights-only", "b", "--weights-only", "*.ff.*")
    result = CliRunner().invoke(_APP, ["quantise", "bundle", "--out", "out", *names])
    assert result.exit_code == 2
    assert result.stderr.strip() == f"error: {_REFUSED}"
    assert (asked[0].keep, asked[0].weights_only) == (("a",), ("b", "*.ff.*"))


def test_no_bundle_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        _APP,
        ["quantise", str(tmp_path / "none"), "--target", "cpu", "--out", str(tmp_path / "out")],
    )
    assert result.exit_code == 2
    assert result.stderr.strip().startswith("error: no bundle at")
    assert list(tmp_path.iterdir()) == []


def test_stages_that_will_need_bf16_are_named() -> None:
    certificate = Bundle.open(miniature()).manifest.certificate
    assert certificate is not None
    assert certificate.rounding is not None
    largest = {"context": 32752.0, "dit_step": 32753.0, "thinker_cond": 5e4}
    wide = replace(certificate, rounding=replace(certificate.rounding, largest=largest))
    (line,) = quantise_cli._wide_stages(wide)
    assert line.startswith("dit_step: values reach 3.28e+04, fp16 ends at 65504")
    assert quantise_cli._wide_stages(replace(certificate, rounding=None)) == []


@pytest.mark.slow
def test_certifying_writes_a_page_of_right_answers_and_spectrograms(tmp_path: Path) -> None:
    """The unrounded miniature's answers stand for the packaged one's too."""
    folder = tmp_path / "bundle"
    shutil.copytree(miniature(), folder)
    before = REPOSITORY / "miniature/scores/unrounded-euler-100.json"
    of_this = replace(read_report(before), model_id=Bundle.open(folder).model_id)
    after = tmp_path / "after.json"
    after.write_text(json.dumps(to_json(of_this)), encoding="utf-8")
    given = ("--before", str(before), "--after", str(after))
    result = CliRunner().invoke(_APP, ["certify", str(folder), *given])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "bundle.report.html").read_text(encoding="utf-8")
    for words in (
        "Right results by kind of example",
        "voice_conversion",
        "this bundle decodes both",
    ):
        assert words in page
    assert page.count("data:image/png") == 2
