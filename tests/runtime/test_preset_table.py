"""The table of presets: what is measured and what is not, the same on every way to it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from typer.testing import CliRunner

from omni_rt.bundle import Bundle
from omni_rt.cli import app
from omni_rt.packaged import miniature
from omni_rt.preset_table import COLUMNS, cells, preset_rows, table_of
from tests.conftest import REPOSITORY
from tests.runtime.test_plan_choice import bundle_with, fitted, model_of
from tests.runtime.test_preset_record import FAITHFUL, FAST, RECORD, measured_with
from tests.runtime.tiny_bundle import rewrite, write_tiny_bundle


def measured(folder: Path) -> Bundle:
    """The tiny bundle with a fitted plan, both of its presets measured."""
    manifest = write_tiny_bundle(folder / "plain")
    bundle = bundle_with(
        folder / "own", fitted(model_of(Bundle(folder / "plain", manifest)), name="ls3-8")
    )
    fast = replace(FAST, plan_sha256=bundle.plan_sha256("ls3-8"))
    record = replace(RECORD, presets={"faithful": FAITHFUL, "fast": fast})
    record = measured_with(bundle.manifest, record)
    rewrite(folder / "own", bundle.manifest, presets=record, default_plan="ls3-8")
    return Bundle.open(folder / "own")


def test_what_is_not_measured_is_said_to_be_so(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    bundle = Bundle.open(tmp_path / "tiny")
    (row,) = preset_rows(bundle)
    assert (row.preset, row.passes, row.measured, row.default) == ("faithful", 200, None, False)
    assert cells(row) == ("faithful", "euler-100", "200", *"–––––", "")
    assert table_of([bundle]).endswith("tiny: these presets are not measured yet.\n")


def test_what_is_measured_stands_beside_the_spread(tmp_path: Path) -> None:
    bundle = measured(tmp_path)
    faithful, fast = preset_rows(bundle)
    assert len(cells(fast)) == len(COLUMNS)
    assert cells(faithful)[2:] == ("200", "0.020", "0.010", "0.300", "0.0", "nothing", "")
    assert cells(fast)[2:] == ("16", "0.100", "0.200", "0.300", "0.2", "nothing", "default")
    text = table_of([bundle])
    assert "| fast | ls3-8 | 16 | 0.100 | 0.200 | 0.300 | 0.2 | nothing | default |" in text
    assert "mean over 2 kinds of 400 examples" in text


def test_commands_show_the_same_table(tmp_path: Path) -> None:
    folder = str(measured(tmp_path).directory)
    text = CliRunner().invoke(app, ["presets", folder, "--markdown"]).stdout
    assert text == table_of([Bundle.open(folder)])
    for command in ("presets", "inspect"):
        shown = CliRunner().invoke(app, [command, folder]).stdout
        assert "presets of tiny" in shown
        assert "between two seeds" in shown


def test_the_readme_has_the_table_of_the_miniature_and_its_students() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- presets -->\n(.*?)<!-- end of presets -->", readme, re.DOTALL)
    students = [REPOSITORY / "miniature" / f"student-{steps}" / "bundle" for steps in (8, 4)]
    assert block == table_of([Bundle.open(folder) for folder in (miniature(), *students)])
