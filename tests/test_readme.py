"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from omni_rt import Audio
from tests.conftest import REPOSITORY


@pytest.mark.slow
def test_the_lines_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in block.splitlines() if line]) == 7
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert Audio.read("tone.wav").duration_s == pytest.approx(2.048)
    assert Audio.read("clicks.wav").duration_s == pytest.approx(2.048)
    assert capsys.readouterr().out.strip()
