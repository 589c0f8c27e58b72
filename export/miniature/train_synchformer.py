"""Train the miniature's Synchformer: the row of a tubelet tells how light it is, in what colour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from omni_rt.contract import SYNC_SEGMENT_FRAMES, sync_starts
from omni_rt.export.miniature.conditioning import sync_segments
from omni_rt.export.miniature.config import SYNC_WIDTH
from omni_rt.export.miniature.data import draw
from omni_rt.export.miniature.data.clip import Frames
from omni_rt.export.miniature.model import new_synchformer, synchformer_sizes
from omni_rt.export.miniature.training import Losses, Schedule, Training
from omni_rt.export.reference.synchformer import Synchformer

NAME = "synchformer"
_COLOURS = 3
_VIDEOS = ("flashes", "scene")  # one of each makes a batch


class Watching(nn.Module):
    """The network, and a probe that is left behind when it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.synchformer = new_synchformer()
        self.probe = nn.Linear(SYNC_WIDTH, 2 * _COLOURS)

    def forward(self, segments: Tensor) -> Tensor:
        """Segments [S, 16, 3, px, px] → colours of a tubelet's two frames [T·S, 6]."""
        return self.probe(self.synchformer(segments))


class SynchformerTraining:
    """Regression on the mean colour of each tubelet's frames."""

    def __init__(self, folder: Path, *, steps: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        schedule = Schedule(steps=steps, peak_rate=3e-3, warmup_steps=20, ema_decay=0.98)
        self.training = Training(Watching(), schedule, folder=folder, name=NAME, seed=seed)

    @property
    def average(self) -> Synchformer:
        """The network's moving average, without the probe."""
        assert isinstance(self.training.average, Watching)
        return self.training.average.synchformer

    def run(self, tell: Callable[[str], None]) -> None:
        """Train to the end of the schedule."""
        self.training.run(self.objective, tell)

    def objective(self, stream: np.random.RandomState) -> Losses:
        """Losses of a drawn batch."""
        loss = torch.zeros(())
        for kind in _VIDEOS:
            frames = draw(kind, stream).frames
            assert frames is not None
            found = self.training.module(sync_segments(frames).to(self.training.device))
            wanted = tubelet_colours(frames).to(found.device)
            loss = loss.to(found.device) + (found - wanted).square().mean() / len(_VIDEOS)
        return {"loss": loss}


def tubelet_colours(frames: Frames) -> Tensor:
    """Mean colours [T·S, 6] in [−1, 1], of both frames of each row that `Synchformer` returns."""
    means = torch.from_numpy(frames).float().mean((1, 2)) / 127.5 - 1  # [frames, 3]
    sizes = synchformer_sizes()
    segments = torch.stack(
        [means[s : s + SYNC_SEGMENT_FRAMES] for s in sync_starts(len(frames))]
    )  # [S, 16, 3]
    return segments.unflatten(1, (sizes.tubelets, -1)).flatten(0, 1).flatten(1)
