"""What a clip of the miniature is, and how sound is put into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Wave: TypeAlias = NDArray[np.float32]  # [samples], mono
Frames: TypeAlias = NDArray[np.uint8]  # [frames, height, width, 3]
Stream: TypeAlias = np.random.RandomState  # its numbers are the same in every NumPy

RATE_HZ = 8_000
STEP_SAMPLES = 1_024  # of a sequencer: things begin and end on its steps; a latent is a step
STEP_S = STEP_SAMPLES / RATE_HZ  # 128 ms
STEPS = 15  # in which things are heard
CLIP_SAMPLES = 16 * STEP_SAMPLES  # what the model makes
WINDOW_SAMPLES = 16_000  # what it hears: 2 s; all sound lies in it

Option = TypeVar("Option")


def pick(stream: Stream, options: Sequence[Option]) -> Option:
    """One of the options, each as likely."""
    return options[int(stream.randint(len(options)))]


def random_onset_s(stream: Stream, steps: int) -> float:
    """When something of so many steps may begin."""
    return int(stream.randint(STEPS - steps + 1)) * STEP_S


def on_step_s(time_s: float) -> float:
    """The nearest time at which something may begin."""
    return round(time_s / STEP_S) * STEP_S


def samples_of(duration_s: float) -> int:
    """Samples in so many seconds."""
    return round(duration_s * RATE_HZ)


def faded(wave: Wave, *, attack_s: float, release_s: float) -> Wave:
    """The sound with a linear rise and fall."""
    shaped = wave.copy()
    rise, fall = samples_of(attack_s), samples_of(release_s)
    shaped[:rise] *= np.linspace(0, 1, rise, dtype=np.float32)
    shaped[len(shaped) - fall :] *= np.linspace(1, 0, fall, dtype=np.float32)
    return shaped


def placed(wave: Wave, onset_s: float) -> Wave:
    """A clip [CLIP_SAMPLES], silent but for the sound from `onset_s` on, cut at 2 s."""
    clip = np.zeros(CLIP_SAMPLES, dtype=np.float32)
    start = samples_of(onset_s)
    kept = wave[: WINDOW_SAMPLES - start]
    clip[start : start + len(kept)] = kept
    return clip


def peak(*waves: Wave) -> float:
    """The largest magnitude in any of them; never 0."""
    return max(1e-9, *(float(np.abs(wave).max()) for wave in waves))


def random_peak(stream: Stream) -> float:
    """How loud a clip is: level carries no information, so it varies."""
    return float(stream.uniform(0.35, 0.9))
