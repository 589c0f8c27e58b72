"""What a folder of a run belongs to: facts in a file, which whoever comes back must bring again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from omni_rt.errors import ExportError
from omni_rt.whole_file import draft_of

Facts = Mapping[str, object]  # by name, as JSON has them


def bind(path: Path, facts: Facts, *, what: str) -> str:
    """Write the facts to `path`, or compare them with those there. Returns their digest.

    Raises ExportError that names every fact that differs, with both values.
    """
    text = json.dumps(facts, indent=1, sort_keys=True)
    if path.is_file():
        _compare(path, json.loads(text), what)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(path) as draft:
            draft.write_text(text + "\n", encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def _compare(path: Path, facts: dict[str, object], what: str) -> None:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(before, dict)
    except (OSError, ValueError, AssertionError) as error:
        raise ExportError(f"{path} cannot be read: remove {path.parent} to begin anew") from error
    differing = [
        f"{name} was {before.get(name)!r:.80}, now {facts.get(name)!r:.80}"
        for name in sorted(before.keys() | facts.keys())
        if before.get(name) != facts.get(name)
    ]
    if differing:
        raise ExportError(
            f"{path.parent}: {what} of something else: {'; '.join(differing)}. "
            "Ask for the same again, give another --work, or remove it"
        )
