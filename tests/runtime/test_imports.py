"""Importing omni_rt stays light, and the import rules cover every module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "onnx", "onnxruntime", "soundfile", "typer", "rich", "jieba")


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = "import sys, omni_rt; sys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert "omni_rt.session" in loaded
    assert sorted(loaded & {*HEAVY, "omni_rt.export", "omni_rt.calibration"}) == []


def test_every_runtime_module_is_in_a_layer() -> None:
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    named = {name.strip() for layer in layers for name in layer.replace("|", ":").split(":")}
    modules = {
        f"omni_rt.{p.stem}"
        for p in (REPOSITORY / "runtime").iterdir()
        if (p.suffix == ".py" and p.stem != "__init__") or (p / "__init__.py").is_file()
    }
    assert named == modules | {"omni_rt.export", "omni_rt.calibration"}
