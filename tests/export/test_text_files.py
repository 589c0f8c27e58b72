from __future__ import annotations

import json
from pathlib import Path

import pytest

from omni_rt import ExportError
from omni_rt.export.text_files import check_vocabulary, find_text_files, read_prompts
from omni_rt.preprocess.chat import TEMPLATES


def templates() -> dict[str, str]:
    return {k: " ".join(f"{{{p}}}" for p in v) or "words" for k, v in TEMPLATES.items()}


def test_constants_are_read_without_running_the_file(tmp_path: Path) -> None:
    lines = ["import os", f"os.mkdir({str(tmp_path / 'ran')!r})", "OTHER = print", "N: int = 3"]
    lines += [f"{name} = ({text[:3]!r}\n    {text[3:]!r})" for name, text in templates().items()]
    path = tmp_path / "prompts.py"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert read_prompts(path) == templates()
    assert not (tmp_path / "ran").exists()


def test_json_does_as_well(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(templates()), encoding="utf-8")
    assert read_prompts(path) == templates()


def test_missing_templates_and_placeholders_are_listed_together(tmp_path: Path) -> None:
    given = templates()
    del given["SYSTEM_TTS"]
    given["EDITING_STYLE"] = "from {source}"
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(given), encoding="utf-8")
    with pytest.raises(ExportError, match=r"SYSTEM_TTS is missing; EDITING_STYLE must have"):
        read_prompts(path)


@pytest.mark.parametrize(("suffix", "text"), [(".py", "def ("), (".json", "{"), (".json", "[1]")])
def test_an_unreadable_file_is_one_error(suffix: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"prompts{suffix}"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ExportError, match="prompts"):
        read_prompts(path)


def test_the_message_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--upstream DIR or --prompts FILE"):
        find_text_files(None, None, None)
    with pytest.raises(ExportError, match="--prompts: no file"):
        find_text_files(tmp_path, None, None)


def test_the_vocabulary_must_fit_the_table(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(b" \r\na\r\nb\r\n")
    check_vocabulary(path, rows=4)
    with pytest.raises(ExportError, match="3 lines, but the checkpoint's table has 9 rows"):
        check_vocabulary(path, rows=9)
