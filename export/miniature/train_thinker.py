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
from omni_rt.export.miniature.text import thinker_config, write_tokenizer
from omni_rt.export.miniature.thinker import TrainableThinker, answers, collated, thinker_losses
from omni_rt.export.miniature.training import Losses, Schedule, Training
from omni_rt.export.reference.thinker_config import MEDIA_TOKENS, ThinkerSizes
from omni_rt.manifest import SpecialIds
from omni_rt.preprocess.chat import STOP_TOKENS, Tokenizer

NAME = "thinker"
_QUESTIONS, _PROMPTS = 24, 8  # of a batch of sound and text
_VIDEOS, _VIDEO_SHARE = 8, 0.15  # a batch of videos, whose prompts are three times as long
# Of speech the prompts hold no words; a video's are few, and long with it.
_UNSAID = ("speech", "voice_speech", "voice_conversion", "flashes", "scene")
_PROMPT_WEIGHTS = {kind: 1.0 for kind in AUDIO_KINDS if kind not in _UNSAID}
_VIDEO_WEIGHTS = {"ask_colour": 1.0, "ask_flashes": 2.0}
_SOUND_WEIGHTS = {k: w for k, w in QUESTION_WEIGHTS.items() if k not in _VIDEO_WEIGHTS}


class ThinkerTraining:
    """The training of the thinker, with the tokenizer it reads by."""

    def __init__(self, folder: Path, *, steps: int, seed: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "tokenizer.json"
        tokens = write_tokenizer(path)
        self.tokenizer, self.tokenizer_ids = Tokenizer(path), tokens
        self.sizes = ThinkerSizes.from_config(thinker_config(tokens))
        self.special = SpecialIds(
            **{name: tokens[token] for name, (_, token) in MEDIA_TOKENS.items()},
            stop=tuple(tokens[token] for token in STOP_TOKENS),
        )
        torch.manual_seed(seed)
        schedule = Schedule(steps=steps, peak_rate=1.5e-3, warmup_steps=200, betas=(0.9, 0.98))
        self.training = Training(
            TrainableThinker(self.sizes), schedule, folder=folder, name=NAME, seed=seed
        )

    def objective(self, stream: np.random.RandomState) -> Losses:
        """Losses of a drawn batch."""
        thinker = self.training.module
        assert isinstance(thinker, TrainableThinker)
        batch = collated(drawn(stream), self.tokenizer, self.special, self.sizes)
        return thinker_losses(thinker, batch, self.special)

    def run(self, tell: Callable[[str], None]) -> None:
        """Train to the end of the schedule."""
        self.training.run(self.objective, tell)

    def ask(self, examples: list[Example]) -> list[str]:
        """What the averaged thinker answers."""
        thinker = self.training.average
        assert isinstance(thinker, TrainableThinker)
        return answers(thinker, examples, self.tokenizer, self.special)


def drawn(stream: np.random.RandomState) -> list[Example]:
    """Questions about sound, and prompts of the other tasks; or questions about videos."""
    if stream.uniform() < _VIDEO_SHARE:
        return [draw_any(stream, _VIDEO_WEIGHTS) for _ in range(_VIDEOS)]
    questions = [draw_any(stream, _SOUND_WEIGHTS) for _ in range(_QUESTIONS)]
    return questions + [draw_any(stream, _PROMPT_WEIGHTS) for _ in range(_PROMPTS)]
