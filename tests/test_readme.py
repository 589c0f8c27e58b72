"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from omni_rt import Audio
from tests.conftest import REPOSITORY


@pytest.mark.slow
def test_the_six_lines_run(
    standin_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in block.splitlines() if line]) == 6
    (tmp_path / "build" / "standin").mkdir(parents=True)
    (tmp_path / "build" / "standin" / "bundle").symlink_to(standin_bundle)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert Audio.read("quiet.wav").duration_s == Audio.read("clock.wav").duration_s == 10.0
