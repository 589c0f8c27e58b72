"""Scores of edits: what was to go is gone, and what was to stay is there."""

from __future__ import annotations

import numpy as np

from omni_rt.export.miniature.data.clip import Wave
from omni_rt.export.miniature.data.example import Added, Stems
from omni_rt.export.miniature.tasks.levels import (
    decibels,
    match_db,
    pieces,
    ratio_db,
    stem_levels,
)
from omni_rt.export.miniature.tasks.result import Score, scored

RESIDUAL_DB = -15.0
KEPT_DB = 3.0
ADDED_DB = 4.0

# There is no guess to calculate: these are the shares of other examples' targets that pass.
_SEPARATION_CHANCES = {"residual": 0.46, "kept": 0.04}
_ADD_CHANCES = {"source": 0.24, "added": 0.27, "match": 0.1}


def separation_score(stems: Stems, clip: Wave) -> Score:
    """Remove and Extract.

    residual_db: what was to go against what was to stay, compared with the recording.
    kept_db: without that residual, how much of the result is what was to stay (0: all of it).
    Silence has no residual, but keeps nothing either.
    """
    result, kept, gone = (pieces(wave) for wave in (clip, stems.kept, stems.gone))
    levels = stem_levels(result, kept, gone, energy=float(kept.sum()))
    # A hiss resembles noise that was to stay; the fit knows when that noise is silent.
    rest = np.maximum(result * levels.scale - levels.second * gone, 0)
    kept_db = min(match_db(rest, kept), decibels(1 - levels.hiss_share))
    residual_db = ratio_db(levels.second, levels.first)
    checks = {"residual": residual_db <= RESIDUAL_DB, "kept": abs(kept_db) <= KEPT_DB}
    measured = {"residual_db": residual_db, "kept_db": kept_db}
    return scored(checks, _SEPARATION_CHANCES, measured)


def add_score(added: Added, clip: Wave) -> Score:
    """Both sounds are there, each within ±4 dB of its level in the true sum."""
    result, before, new = (pieces(wave) for wave in (clip, added.before, added.added))
    energy = float(pieces(added.before + added.added).sum())
    levels = stem_levels(result, before, new, energy=energy)
    source_db, added_db = decibels(levels.first), decibels(levels.second)
    match = match_db(result, pieces(added.before + added.added))
    checks = {
        "source": abs(source_db) <= ADDED_DB,
        "added": abs(added_db) <= ADDED_DB,
        "match": abs(match) <= KEPT_DB,
    }
    measured = {"source_db": source_db, "added_db": added_db, "match_db": match}
    return scored(checks, _ADD_CHANCES, measured)
