"""Shared inputs: golden data of the original, and bundles made once per run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden data; tests that need it are skipped where it is not."""
    default = REPOSITORY / ".." / "shared" / "golden"
    folder = Path(os.environ.get("OMNI_RT_GOLDEN", default)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no golden data at {folder}: set OMNI_RT_GOLDEN")
    return folder


@pytest.fixture(scope="session")
def golden_arrays(golden: Path) -> Mapping[str, np.ndarray]:
    return dict(np.load(golden / "upstream" / "golden.npz"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's keys and caches of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def golden_meta(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "upstream" / "meta.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in's files: checkpoint, configuration, thinker folder, upstream checkout."""
    from omni_rt.export.standin import write_standin

    return write_standin(tmp_path_factory.mktemp("standin") / "files")


@pytest.fixture(scope="session")
def standin_bundle(standin: Path) -> Path:
    from omni_rt.export.build import export_bundle
    from omni_rt.export.sources import ExportOptions

    return export_bundle(
        ExportOptions(
            config=standin / "config.json",
            checkpoint=standin / "model.safetensors",
            qwen=standin / "qwen",
            upstream=standin / "upstream",
            synchformer=standin / "synchformer.safetensors",
            synchformer_heads=2,
            out=standin.parent / "bundle",
            workers=2,
        )
    )


@pytest.fixture(scope="session")
def unrounded_miniature() -> Path:
    """What the packaged miniature is quantised from."""
    from tests.calibration.small import the_miniature

    return the_miniature().directory


@pytest.fixture(scope="session")
def session(standin_bundle: Path) -> Iterator[Any]:
    from omni_rt import Session

    with Session(standin_bundle) as opened:
        yield opened


@pytest.fixture(scope="session")
def golden_bundle(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original's small model, through the exporter."""
    from omni_rt.export.build import export_bundle
    from omni_rt.export.contract import MODEL_STAGES
    from omni_rt.export.sources import ExportOptions

    return export_bundle(
        ExportOptions(
            config=golden / "upstream" / "config.json",
            checkpoint=golden / "upstream" / "model.ckpt",
            out=tmp_path_factory.mktemp("golden") / "bundle",
            stages=MODEL_STAGES,
            workers=2,
        )
    )
