"""What a sound is: the facts that a caption names and a score checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from omni_rt.export.miniature.data.clip import STEP_S, Stream, pick
from omni_rt.export.miniature.data.waves import COLOURS, SHAPES

OCTAVES = (4, 5)
QUALITIES = {"major": (0, 4, 7), "minor": (0, 3, 7), "dim": (0, 3, 6), "sus": (0, 5, 7)}
MOST_CLICKS = 6
CLICK_HZ = 1_200.0
_CLICK_GAP_STEPS = 2
_SWEEP_HZ = (300.0, 1_500.0)

# An added sound comes at a known time.
_ADDED_STEP = 2
ADDED_ONSET_S, ADDED_LENGTH_S = _ADDED_STEP * STEP_S, 11 * STEP_S


# Periods in a step, C to B of octave 3, within 28 cents of equal temperament. Every pitch is a
# whole number of them, so that all steps of a tone are alike.
PERIODS = (17, 18, 19, 20, 21, 22, 24, 25, 27, 28, 30, 32)


def pitch_hz(pitch: int, octave: int) -> float:
    """The instrument's tuning: pitch 0 is C and 12 the next one; the A of octave 4 is 437.5 Hz."""
    return PERIODS[pitch % 12] * 2.0 ** (pitch // 12 + octave - 3) / STEP_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    kind: ClassVar[str] = "note"
    pitch: int  # 0 (C) to 11 (B)
    octave: int
    shape: str

    @property
    def hz(self) -> float:
        return pitch_hz(self.pitch, self.octave)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chirp:
    kind: ClassVar[str] = "chirp"
    start_hz: float
    end_hz: float

    @property
    def rising(self) -> bool:
        return self.end_hz > self.start_hz


@dataclass(frozen=True, slots=True, kw_only=True)
class Clicks:
    kind: ClassVar[str] = "clicks"
    onsets_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    kind: ClassVar[str] = "noise"
    colour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chord:
    kind: ClassVar[str] = "chord"
    root: int
    quality: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arpeggio:
    kind: ClassVar[str] = "arpeggio"
    root: int
    quality: str
    rising: bool


Sound: TypeAlias = Note | Chirp | Clicks | Noise | Chord | Arpeggio


def draw_sound(kind: str, stream: Stream, *, settled: bool = False) -> Sound:
    """A random sound. `settled`: what a description leaves open is not random (for Add)."""
    if kind == "note":
        return Note(
            pitch=int(stream.randint(12)), octave=pick(stream, OCTAVES), shape=pick(stream, SHAPES)
        )
    if kind == "chirp":
        return _chirp(stream)
    if kind == "clicks":
        return _clicks(1 + int(stream.randint(MOST_CLICKS)), settled)
    if kind == "noise":
        return Noise(colour=pick(stream, COLOURS))
    root, quality = int(stream.randint(12)), pick(stream, tuple(QUALITIES))
    if kind == "chord":
        return Chord(root=root, quality=quality)
    assert kind == "arpeggio", kind
    return Arpeggio(root=root, quality=quality, rising=bool(stream.randint(2)))


def _chirp(stream: Stream) -> Chirp:
    low, high = _SWEEP_HZ
    if stream.randint(2):
        return Chirp(start_hz=low, end_hz=high)
    return Chirp(start_hz=high, end_hz=low)


def _clicks(count: int, settled: bool) -> Clicks:
    """Evenly spaced: at any time, how many there are is settled one click at a time."""
    first = _ADDED_STEP if settled else 0
    return Clicks(
        onsets_s=tuple((first + _CLICK_GAP_STEPS * click) * STEP_S for click in range(count))
    )
