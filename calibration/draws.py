"""What one case draws: words, sounds, films. Each depends on the seed, its task and its number.

So a case does not depend on how many there are: a larger set contains the smaller one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from omni_rt.audio import Audio
from omni_rt.calibration import prompts
from omni_rt.calibration.case import stream_of
from omni_rt.calibration.films import film_frames
from omni_rt.calibration.mixing import Stream, Wave, procedural
from omni_rt.export.miniature.data.video import FPS
from omni_rt.export.miniature.film import write_film
from omni_rt.manifest import Dims

_PEAK_DB = (-24.0, -1.0)

Option = TypeVar("Option")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One case's own choices; they depend on the seed, its task and its number alone."""

    seed: int
    dims: Dims
    folder: Path
    sounds: Sequence[Wave]  # the user's; none: procedural ones
    hears: bool  # whether a prompt may come with a recording
    task: str = ""
    index: int = 0

    @property
    def samples(self) -> int:
        """Of a recording: as many as the model hears and makes."""
        return min(self.dims.window_samples, self.dims.clip_samples)

    def stream(self, what: str) -> Stream:
        return stream_of(self.seed, self.task, self.index, what)

    def one_of(self, options: Sequence[Option], what: str) -> Option:
        """The next one in the task's own order: none comes twice before all have."""
        order = stream_of(self.seed, self.task, what).permutation(len(options))
        return options[int(order[self.index % len(options)])]

    def waves(self, kinds: Sequence[str], what: str) -> list[Wave]:
        """A sound of each kind, all but the first shorter; or as many of the user's."""
        stream, rate_hz = self.stream(what), self.dims.sample_rate_hz
        if self.sounds:
            order = stream.permutation(len(self.sounds))
            return [self.sounds[order[i % len(order)]] for i in range(len(kinds))]
        shares = [1.0, *stream.uniform(0.2, 0.6, len(kinds) - 1)]
        lengths = [max(1, round(self.samples * share)) for share in shares]
        pairs = zip(kinds, lengths, strict=True)
        return [procedural(kind, stream, rate_hz=rate_hz, samples=n) for kind, n in pairs]

    def recording(self, wave: Wave) -> Audio:
        """The sound as a recording, at a level of its own."""
        level = 10 ** (self.stream("level").uniform(*_PEAK_DB) / 20)
        samples = wave[None, : self.samples] * (level / np.abs(wave[: self.samples]).max())
        return Audio(samples, self.dims.sample_rate_hz)

    def film(self) -> Path:
        seconds = max(1, round(self.samples / self.dims.sample_rate_hz))
        frames = film_frames(self.stream("film"), FPS * seconds)
        return write_film(frames, self.folder / f"{self.task}-{self.index}.mkv")

    def words(self, what: str, room: int) -> str:
        """A sentence, English and Chinese in turn, cut after a word to `room` transcript ids."""
        text = self.one_of((prompts.ENGLISH, prompts.CHINESE)[self.index % 2], what)
        most = max(1, room // 2)  # a Chinese character is a space and a syllable
        return text if len(text) <= most else text[:most].rpartition(" ")[0] or text[:most]
