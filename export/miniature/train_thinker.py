"""Train the miniature's thinker: questions answered, prompts foretold; then it is frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from omni_rt.export.miniature.data import (
    AUDIO_KINDS,
    QUESTION_WEIGHTS,
    Example,
    draw_any,
)
from omni_rt.export.miniature.gist import gist_error
from omni_rt.export.miniature.text import Words, write_tokenizer
from omni_rt.export.miniature.thinker import TrainableThinker, collated, thinker_losses
from omni_rt.export.miniature.training import Losses, Schedule, Training

NAME = "thinker"
_QUESTIONS, _PROMPTS = 12, 4  # of a batch of sound and text
_GISTS, _GIST_WEIGHT = 64, 2.0
_VIDEOS, _VIDEO_SHARE = 8, 0.15  # a batch of videos, whose prompts are three times as long
# Of speech the prompts hold no words; a video's are few, and long with it.
_UNSAID = ("speech", "voice_speech", "voice_conversion", "flashes", "scene")
_PROMPT_WEIGHTS = {kind: 1.0 for kind in AUDIO_KINDS if kind not in _UNSAID}
_VIDEO_WEIGHTS = {"ask_colour": 1.0, "ask_flashes": 2.0}
_SOUND_WEIGHTS = {k: w for k, w in QUESTION_WEIGHTS.items() if k not in _VIDEO_WEIGHTS}
# Later what is learnt last comes oftener: pitches, which are read between the bands of the mel.
_LATER_FROM = 0.35  # of the steps
_LATER_WEIGHTS = _SOUND_WEIGHTS | {"ask_note": 5.0, "ask_chord": 6.0}


class ThinkerTraining:
    """The training of the thinker, with the tokenizer it reads by."""

    def __init__(self, folder: Path, *, steps: int, seed: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "tokenizer.json"
        write_tokenizer(path)
        self.words = Words.read(path)
        torch.manual_seed(seed)
        schedule = Schedule(
            steps=steps,
            peak_rate=2e-3,
            warmup_steps=200,
            betas=(0.9, 0.98),
            orthogonal=("model.layers.", "audio_tower.layers.", "visual.blocks."),
        )
        self.training = Training(
            TrainableThinker(self.words.sizes), schedule, folder=folder, name=NAME, seed=seed
        )

    def objective(self, stream: np.random.RandomState) -> Losses:
        """Losses of a drawn batch."""
        thinker = self.training.module
        assert isinstance(thinker, TrainableThinker)
        done = self.training.step / self.training.schedule.steps
        batch = collated(drawn(stream, done), self.words)
        batch = batch.to(self.training.device)
        losses = thinker_losses(thinker, batch, self.words.special)
        told = [draw_any(stream, _PROMPT_WEIGHTS) for _ in range(_GISTS)]
        missed = gist_error(thinker, told, self.words)
        return losses | {"loss": losses["loss"] + _GIST_WEIGHT * missed, "gist": missed}

    def run(self, tell: Callable[[str], None]) -> None:
        """Train to the end of the schedule."""
        self.training.run(self.objective, tell)

    @property
    def average(self) -> TrainableThinker:
        """The moving average of the thinker."""
        assert isinstance(self.training.average, TrainableThinker)
        return self.training.average


def drawn(stream: np.random.RandomState, done: float) -> list[Example]:
    """Questions about sound, and prompts of the other tasks; or questions about videos.

    `done` is the share of the training that is over.
    """
    weights = _SOUND_WEIGHTS if done < _LATER_FROM else _LATER_WEIGHTS
    if stream.uniform() < _VIDEO_SHARE:
        return [draw_any(stream, _VIDEO_WEIGHTS) for _ in range(_VIDEOS)]
    questions = [draw_any(stream, weights) for _ in range(_QUESTIONS)]
    return questions + [draw_any(stream, _PROMPT_WEIGHTS) for _ in range(_PROMPTS)]
