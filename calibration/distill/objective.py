"""What the student is taught: the straight way to the teacher's next state (spec SOLVERS §3).

Both losses are ‖v(x, t_i) − (x_{i+1} − x)/(t_{i+1} − t_i)‖², the mean over all numbers; x is the
teacher's state in the first, and in the second where the student itself has got to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from omni_rt.calibration.distill.shards import Pair
from omni_rt.calibration.distill.teacher import Conditioning
from omni_rt.calibration.distill.tokens import Silence, collated
from omni_rt.export.reference.dit import DiT

Velocity = Callable[[Tensor, Tensor, Conditioning], Tensor]  # x [B, C, L], t [B], conditioning
Loss = Callable[[Sequence[int]], Tensor]  # of lessons by their numbers


def velocity_of(dit: DiT) -> Velocity:
    """The conditional velocity, without guidance."""
    return lambda x, t, conditioning: dit(x, t, *conditioning)


class Lessons:
    """Losses of pairs, on one device."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        velocity: Velocity,
        nodes: Sequence[float],
        silence: Silence,
        device: torch.device,
    ) -> None:
        self.pairs, self.device = pairs, device
        self._velocity, self._silence = velocity, silence
        self.times = torch.tensor(nodes, dtype=torch.float32, device=device)

    @property
    def segments(self) -> int:
        """K."""
        return len(self.times) - 1

    def segment_loss(self, chosen: Sequence[int]) -> Tensor:
        """Of lesson n, pair n // K, segment n mod K."""
        pairs, segments = np.divmod(np.asarray(chosen), self.segments)
        states, conditioning = self._given(pairs.tolist())
        segment = torch.from_numpy(segments).to(self.device)
        rows = torch.arange(len(states), device=self.device)
        return self._loss(states[rows, segment], states[rows, segment + 1], segment, conditioning)

    def tracking_loss(self, chosen: Sequence[int]) -> Tensor:
        """Of pair n every segment, from where the student arrives there by itself."""
        states, conditioning = self._given(chosen)
        reached = self.rolled_out(states[:, 0], conditioning)
        count = self.segments
        segment = torch.arange(count, device=self.device).repeat_interleave(len(chosen))
        # pairs vary faster than segments, in all of these
        following = states[:, 1:].transpose(0, 1).flatten(0, 1)
        context, mask, low_level = (
            part.repeat(count, *[1] * (part.dim() - 1)) for part in conditioning
        )
        return self._loss(torch.cat(reached[:-1]), following, segment, (context, mask, low_level))

    @torch.no_grad()
    def rolled_out(self, noise: Tensor, conditioning: Conditioning) -> list[Tensor]:
        """K + 1 states [B, C, L] of the student's own way from noise."""
        reached = [noise]
        for i in range(self.segments):
            x = reached[-1]
            v = self._velocity(x, self.times[i].expand(len(x)), conditioning)
            reached.append(x + (self.times[i + 1] - self.times[i]) * v)
        return reached

    @torch.no_grad()
    def error(self, chosen: Sequence[int]) -> float:
        """Mean relative L2 distance of the student's latents from the teacher's at equal noise."""
        found = []
        for index in chosen:
            states, conditioning = self._given([index])
            made = self.rolled_out(states[:, 0], conditioning)[-1]
            found.append(float((made - states[:, -1]).norm() / states[:, -1].norm()))
        return float(np.mean(found))

    def _loss(self, x: Tensor, following: Tensor, segment: Tensor, given: Conditioning) -> Tensor:
        t = self.times[segment]
        step = (self.times[segment + 1] - t)[:, None, None]
        velocity = self._velocity(x, t, given)
        return (velocity - (following - x) / step).square().mean()

    def _given(self, chosen: Sequence[int]) -> tuple[Tensor, Conditioning]:
        """States [B, K + 1, C, L] fp32 and the conditioning of some pairs."""
        pairs = [self.pairs[int(i)] for i in chosen]
        states = torch.stack([pair.nodes for pair in pairs]).to(self.device, torch.float32)
        return states, collated([pair.tokens for pair in pairs], self._silence, self.device)
