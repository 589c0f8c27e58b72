"""Two sounds of different kinds in one recording, with their stems."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omni_rt.export.miniature.data.clip import Stream, Wave, peak, pick, random_peak
from omni_rt.export.miniature.data.render import ADDED_SPAN, Span, random_span, render
from omni_rt.export.miniature.data.sounds import Sound, draw_sound

# Tone and chord share frequencies: nobody could tell which of them is to go.
PAIRS = (
    ("note", "chirp"),
    ("note", "clicks"),
    ("note", "noise"),
    ("chord", "chirp"),
    ("chord", "clicks"),
    ("chord", "noise"),
    ("chirp", "clicks"),
    ("chirp", "noise"),
    ("clicks", "noise"),
)
_LEVEL_DB = 3.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mixture:
    """`first` + `second` is the recording; stems are [CLIP_SAMPLES]."""

    first: Wave
    second: Wave
    first_sound: Sound
    second_sound: Sound

    @property
    def both(self) -> Wave:
        return self.first + self.second


def _span(kind: str, stream: Stream) -> Span:
    """Noise ends or begins within the clip, which tells it from the hiss of a codec."""
    return (
        random_span(kind, stream, least=5, most=9) if kind == "noise" else random_span(kind, stream)
    )


def draw_mixture(stream: Stream, *, settled_second: bool) -> Mixture:
    """Two sounds, up to 3 dB louder or softer than their kinds are.

    `settled_second`: the second one is as loud as its kind is against the first and comes when
    and as added sounds come, so that a model can know what is wanted.
    """
    pair = pick(stream, PAIRS)
    kinds = pair if stream.randint(2) else pair[::-1]
    sounds = [
        draw_sound(kinds[0], stream),
        draw_sound(kinds[1], stream, settled=settled_second),
    ]
    spans = [_span(kinds[0], stream), ADDED_SPAN if settled_second else _span(kinds[1], stream)]
    stems = []
    for sound, span in zip(sounds, spans, strict=True):
        level_db = 0.0 if settled_second else float(stream.uniform(-_LEVEL_DB, _LEVEL_DB))
        stems.append(render(sound, span, stream) * np.float32(10 ** (level_db / 20)))
    gain = np.float32(random_peak(stream) / peak(*stems, stems[0] + stems[1]))
    return Mixture(
        first=stems[0] * gain,
        second=stems[1] * gain,
        first_sound=sounds[0],
        second_sound=sounds[1],
    )
