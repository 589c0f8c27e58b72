"""Objective scores of the miniature's results: `score(example, waveform, rate_hz)`. NumPy only."""

from omni_rt.export.miniature.tasks.result import Score
from omni_rt.export.miniature.tasks.scoring import score, score_answer, score_truth

__all__ = ["Score", "score", "score_answer", "score_truth"]
