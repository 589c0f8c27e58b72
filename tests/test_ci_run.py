"""What `.ci/run` says at its end of what this machine could not do. Its tools are stand-ins."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci/run"


@pytest.mark.parametrize(
    ("tools", "last"),
    [
        (
            (),
            "SKIPPED on this machine: compiling the CUDA loop (no nvcc), "
            "running its kernels (no NVIDIA GPU)",
        ),
        (("nvcc",), "SKIPPED on this machine: running its kernels (no NVIDIA GPU)"),
        (("nvcc", "nvidia-smi"), "all tests pass"),
    ],
)
def test_the_last_line_is_what_was_skipped(
    tools: tuple[str, ...], last: str, tmp_path: Path
) -> None:
    for folder in ("repository/.ci", "golden", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "repository/.ci/run")
    for name in ("make", "g++", "git", "python3", *tools):
        tool = tmp_path / "bin" / name
        said = "all tests pass" if name == "make" else ""
        tool.write_text(f"#!/bin/sh\nprintf '{said}\\n'\n")
        tool.chmod(0o755)
    bash, dirname = shutil.which("bash"), shutil.which("dirname")
    assert bash is not None
    assert dirname is not None
    (tmp_path / "bin/dirname").symlink_to(dirname)
    done = subprocess.run(
        [bash, tmp_path / "repository/.ci/run"],
        env={"PATH": str(tmp_path / "bin"), "OMNI_RT_GOLDEN": str(tmp_path / "golden")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == last
