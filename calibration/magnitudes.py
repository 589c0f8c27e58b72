"""How large what a stage's products read and put out becomes: whether fp16 can hold it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch

from omni_rt.calibration.ranges import LayerRange
from omni_rt.calibration.smooth import Smoothing


def largest_value(
    layers: Mapping[str, LayerRange],
    own: Iterable[Smoothing],
    family: Iterable[Smoothing],
) -> float:
    """An upper bound of a folded stage's observed products and of what they read.

    layers: of the stage, as observed; own: its groups; family: the groups of all stages that are
    folded together, whose factors divide what its matrices put out.
    """
    read = {name: smoothing for smoothing in own for name in smoothing.group.matrices}
    made = {maker: float(s.factor.min()) for s in family for maker in s.group.divided}
    return max(_values(layers, read, made), default=0.0)


def _values(
    layers: Mapping[str, LayerRange],
    read: Mapping[str, Smoothing],
    made: Mapping[str, float],
) -> Iterator[float]:
    for name, layer in layers.items():
        channels, moved = torch.from_numpy(layer.channel_max), 0.0
        if name in read:
            channels, moved = channels / read[name].factor, read[name].moved
        yield float(channels.max())
        yield (layer.output_max + moved) / made.get(name, 1.0)
