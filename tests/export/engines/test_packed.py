"""What a device gets of a bundle with engines: nothing of other devices, and no graphs if asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from omni_rt.bundle import Bundle
from omni_rt.cli import app
from omni_rt.engines.ort import load_engine
from omni_rt.engines.plan_checks import trusted_plan
from omni_rt.errors import BundleError, ExportError
from omni_rt.export.bundle_plans import copy_with_plans
from omni_rt.export.cli_build import commands
from omni_rt.export.engines.bundle_engines import compiled_stages
from omni_rt.export.engines.packed import pack
from omni_rt.manifest import write_manifest
from tests.runtime.engines.compiled import write_compiled_bundle
from tests.runtime.tiny_bundle import STAGES

pytestmark = pytest.mark.usefixtures("home")

if not any(command.callback.__name__ == "pack" for command in app.registered_commands):  # type: ignore[union-attr]
    commands(app)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_compiled_bundle(tmp_path / "bundle")


def files_of(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("engines_only", [False, True])
def test_a_packed_bundle_holds_one_targets_engines(
    bundle: Bundle, engines_only: bool, tmp_path: Path
) -> None:
    pack(bundle.directory, tmp_path / "out", "rtx5090", engines_only=engines_only)
    packed = Bundle.open(tmp_path / "out")
    assert list(packed.manifest.engines) == ["rtx5090"]
    missing = files_of(bundle.directory) - files_of(packed.directory)
    others = {f"engines/rtx4090/{stage}.plan" for stage in STAGES}
    graphs = {f"graphs/{stage}.{kind}" for stage in STAGES for kind in ("onnx", "data")}
    assert missing == (others | graphs if engines_only else others)
    held = sum(p.stat().st_size for p in packed.directory.rglob("*") if p.is_file())
    manifest = (packed.directory / "manifest.json").stat().st_size
    assert packed.manifest.size_bytes == held - manifest


def test_engines_and_certificate_are_still_held_to_the_graphs_that_stayed_behind(
    bundle: Bundle, tmp_path: Path
) -> None:
    pack(bundle.directory, tmp_path / "out", "rtx4090", engines_only=True)
    packed = Bundle.open(tmp_path / "out")
    packed.require_certificate()
    engines = packed.manifest.engines["rtx4090"]
    for stage in STAGES:
        said = trusted_plan(packed, stage, "rtx4090", engines).decode()
        assert said == f"plan of {stage} for rtx4090"
    graph = packed.manifest.files["graphs/context.onnx"]
    files = {**packed.manifest.files, "graphs/context.onnx": replace(graph, sha256="0" * 64)}
    write_manifest(replace(packed.manifest, files=files), packed.directory)
    with pytest.raises(BundleError, match="did not measure this 'context' graph"):
        Bundle.open(packed.directory).require_certificate()


def test_what_needs_a_graph_says_that_it_stayed_behind(bundle: Bundle, tmp_path: Path) -> None:
    pack(bundle.directory, tmp_path / "out", "rtx4090", engines_only=True)
    packed = Bundle.open(tmp_path / "out")
    with pytest.raises(BundleError, match="without the graph of 'context': pass --engine tensorr"):
        load_engine(packed, "context", 1)
    with pytest.raises(BundleError, match="without the graph"):
        compiled_stages(packed, ())


def test_a_packed_bundle_can_be_copied_and_packed_again(bundle: Bundle, tmp_path: Path) -> None:
    pack(bundle.directory, tmp_path / "out", "rtx4090", engines_only=True)
    packed = Bundle.open(tmp_path / "out")
    copy_with_plans(packed, [], tmp_path / "copy", overwrite=False)
    pack(tmp_path / "copy", tmp_path / "again", "rtx4090")
    assert Bundle.open(tmp_path / "again").manifest == packed.manifest


def test_engines_of_some_stages_are_not_enough_without_graphs(tmp_path: Path) -> None:
    some = write_compiled_bundle(tmp_path / "some", stages=("dit_step",))
    with pytest.raises(BundleError, match="no engines for rtx4090 of context, vae_decoder"):
        pack(some.directory, tmp_path / "out", "rtx4090", engines_only=True)
    pack(some.directory, tmp_path / "out", "rtx4090")
    assert Bundle.open(tmp_path / "out").graph_file("context").is_file()


def test_another_target_and_a_place_that_is_taken_are_refused(
    bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=r"no engines for 'orin' \(there are rtx4090, rtx5090\)"):
        pack(bundle.directory, tmp_path / "out", "orin")
    with pytest.raises(ExportError, match="is there already"):
        pack(bundle.directory, bundle.directory, "rtx4090")


@pytest.mark.parametrize("path", ["plans/own-3.json", "engines/rtx4090/context.plan", "no/such"])
def test_only_files_of_graphs_may_be_left_out(bundle: Bundle, path: str) -> None:
    write_manifest(replace(bundle.manifest, left_out=(path,)), bundle.directory)
    with pytest.raises(BundleError, match=r"left_out.*" + path):
        Bundle.open(bundle.directory)


def test_the_command_says_what_is_left(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["pack", str(bundle.directory), "--target", "rtx4090", "--out", str(out)]
    told = CliRunner().invoke(app, [*arguments, "--engines-only"])
    assert told.exit_code == 0, told.output
    assert "without 6 files of graphs" in told.stdout
    shown = CliRunner().invoke(app, ["inspect", str(out)])
    assert "compiled and proved, not run" in " ".join(shown.stdout.replace("│", " ").split())
    assert "packed for its engines" in shown.stdout
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
