"""Prompt templates and character vocabulary, read from the user's own files, never executed."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from omni_rt.errors import BundleError, ExportError
from omni_rt.preprocess.chat import TEMPLATES
from omni_rt.preprocess.transcript import read_vocabulary

_UPSTREAM_PROMPTS = "audio_omni/prompts.py"
_UPSTREAM_VOCABULARY = "audio_omni/data/vocab.txt"


def find_text_files(
    upstream: Path | None, prompts: Path | None, vocabulary: Path | None
) -> tuple[Path, Path]:
    """Where the templates and the vocabulary are: given one by one, or in an upstream checkout.

    Raises ExportError naming what is missing and the option that gives it.
    """
    if upstream is not None:
        prompts = prompts or upstream / _UPSTREAM_PROMPTS
        vocabulary = vocabulary or upstream / _UPSTREAM_VOCABULARY
    for path, option in ((prompts, "--prompts"), (vocabulary, "--vocab")):
        if path is None:
            raise ExportError(f"give --upstream DIR or {option} FILE")
        if not path.is_file():
            raise ExportError(f"{option}: no file at {path}")
    assert prompts is not None
    assert vocabulary is not None
    return prompts, vocabulary


def read_prompts(path: Path) -> dict[str, str]:
    """The templates of a `prompts.py` (string constants, by `ast`) or of a JSON object.

    Raises ExportError if one is missing or lacks a placeholder it needs.
    """
    try:
        source = path.read_text(encoding="utf-8")
        found = json.loads(source) if path.suffix == ".json" else _string_constants(source)
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        raise ExportError(f"prompts: cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise ExportError(f"prompts: {path} must hold one object of strings")
    problems = []
    for name, placeholders in TEMPLATES.items():
        template = found.get(name)
        if not isinstance(template, str):
            problems.append(f"{name} is missing")
        elif set(re.findall(r"\{(\w+)\}", template)) != set(placeholders):
            problems.append(f"{name} must have the placeholders {list(placeholders)}")
    if problems:
        raise ExportError(f"prompts: {path}: " + "; ".join(problems))
    return {name: found[name] for name in TEMPLATES}


def _string_constants(source: str) -> dict[str, str]:
    """Module-level names bound to string literals; other statements are passed over."""
    found: dict[str, str] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        try:
            literal = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(literal, str):
            found |= {target.id: literal for target in targets if isinstance(target, ast.Name)}
    return found


def check_vocabulary(path: Path, *, rows: int) -> None:
    """Raise ExportError unless the file has one character per row of the table, but one."""
    try:
        size = len(read_vocabulary(path))
    except BundleError as error:
        raise ExportError(str(error)) from error
    if size != rows - 1:
        raise ExportError(
            f"vocabulary: {path} has {size} lines, but the checkpoint's table has {rows} rows "
            f"(characters + 1)"
        )
