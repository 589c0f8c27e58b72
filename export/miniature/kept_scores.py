"""Scores in a folder, a file for each kind once it is done: a run that is cut off goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from omni_rt import strict_json
from omni_rt.bundle import Bundle
from omni_rt.engines.registry import resolved
from omni_rt.errors import BundleError, ExportError
from omni_rt.export.miniature.report import KindScores
from omni_rt.export.miniature.scoring_run import Settings
from omni_rt.whole_file import draft_of


def made_folder(folder: Path) -> Path:
    """The folder for scores, made if need be. Raises ExportError for what the file system says."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot keep scores in {folder}: {error.strerror}") from error
    return folder


class KeptScores:
    """What a bundle scored on an engine. A file's name depends on all that its scores do."""

    def __init__(self, folder: Path, bundle: Bundle, *, engine: str) -> None:
        """Raises ExportError if there can be no such folder."""
        self._folder = made_folder(folder)
        graphs = {stage: bundle.graph_digest(stage) for stage in bundle.manifest.graphs}
        self._model = [graphs, resolved(engine)]

    def once(self, kind: str, settings: Settings, score: Callable[[], KindScores]) -> KindScores:
        """A kind's scores as they were kept, or as `score` finds them, kept from now on.

        What could not be scored is not kept: a later run may have what was lacking. Raises
        ExportError for a file that holds no scores.
        """
        path = self._folder / f"{settings.plan.name}-{kind}-{self._key(settings)}.json"
        if path.exists():
            return _read(path)
        found = score()
        if found.status == "scored":
            with draft_of(path) as draft:
                draft.write_text(json.dumps(strict_json.to_json(found)) + "\n", encoding="utf-8")
        return found

    def _key(self, settings: Settings) -> str:
        """Of graphs, engine, rows, guidance, examples and noise."""
        told = [
            *self._model,
            settings.plan.table().tolist(),
            float(settings.cfg_scale),
            settings.count,
            settings.seed,
            settings.first_noise,
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _read(path: Path) -> KindScores:
    try:
        return strict_json.read(KindScores, path)
    except BundleError as error:
        raise ExportError(f"{path} holds no scores, remove it: {error}") from error
