"""Sounds → clips. Loudness is a convention here: a sound has its kind's level, whatever it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omni_rt.export.miniature.data import waves
from omni_rt.export.miniature.data.clip import (
    CLIP_SAMPLES,
    RATE_HZ,
    STEP_S,
    STEP_SAMPLES,
    Stream,
    Wave,
    faded,
    peak,
    placed,
    random_onset_s,
    random_peak,
    samples_of,
)
from omni_rt.export.miniature.data.sounds import (
    ADDED_LENGTH_S,
    ADDED_ONSET_S,
    CLICK_HZ,
    QUALITIES,
    Arpeggio,
    Chirp,
    Chord,
    Clicks,
    Noise,
    Note,
    Sound,
    pitch_hz,
)

TONE_RMS, NOISE_RMS, CLICK_PEAK = 0.2, 0.12, 0.7

_ARPEGGIO_NOTE_STEPS = 3
_CLICK_S = (0.015, 0.02)
_CLICK_DECAY_S = 0.006


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When a sound is heard, in seconds; clicks have their own times."""

    onset_s: float
    length_s: float


ADDED_SPAN = Span(onset_s=ADDED_ONSET_S, length_s=ADDED_LENGTH_S)


def random_span(kind: str, stream: Stream, *, least: int = 10, most: int = 14) -> Span:
    """So many steps, somewhere in the clip; a chirp's begin with it.

    What has an order in time is hard to learn where its beginning is random: that is settled while
    the order is audible in the noise already, so that the caption comes too late to decide it.
    """
    steps = int(stream.randint(least, most + 1))
    onset_s = 0.0 if kind == Chirp.kind else random_onset_s(stream, steps)
    return Span(onset_s=onset_s, length_s=steps * STEP_S)


def levelled(wave: Wave, stream: Stream) -> Wave:
    """The clip at a random peak level."""
    return wave * np.float32(random_peak(stream) / peak(wave))


def render(sound: Sound, span: Span, stream: Stream) -> Wave:
    """A clip [CLIP_SAMPLES] of the sound at its kind's level."""
    if isinstance(sound, Clicks):
        return render_clicks(sound, stream)
    samples = samples_of(span.length_s)
    if isinstance(sound, Noise):
        wave = waves.noise(sound.colour, samples, stream) * np.float32(NOISE_RMS)
        return placed(faded(wave, attack_s=0.02, release_s=0.03), span.onset_s)
    if isinstance(sound, Arpeggio):
        return _arpeggio(sound)
    wave = _sustained(sound, samples, span.onset_s, stream) * np.float32(TONE_RMS)
    return placed(faded(wave, attack_s=0.02, release_s=0.06), span.onset_s)


def render_clicks(sound: Clicks, stream: Stream) -> Wave:
    """Bursts that are alike but for their loudness (±2 dB)."""
    burst = waves.click(CLICK_HZ, _CLICK_DECAY_S, samples_of(stream.uniform(*_CLICK_S)))
    clip = np.zeros(CLIP_SAMPLES, dtype=np.float32)
    for onset_s in sound.onsets_s:
        start = samples_of(onset_s)
        loudness = CLICK_PEAK * 10 ** (stream.uniform(-2, 2) / 20)
        clip[start : start + len(burst)] += burst * np.float32(loudness)
    return clip


def _sustained(sound: Note | Chirp | Chord, samples: int, onset_s: float, stream: Stream) -> Wave:
    """RMS about 1."""
    if isinstance(sound, Note):
        return waves.tone(sound.shape, sound.hz, samples, onset_s=onset_s)
    if isinstance(sound, Chirp):
        return waves.sweep(sound.start_hz, sound.end_hz, samples, onset_s=onset_s)
    wave = np.zeros(samples, dtype=np.float32)
    for step in QUALITIES[sound.quality]:
        loudness = 10 ** (stream.uniform(-1.5, 1.5) / 20) / np.sqrt(3)
        hz = pitch_hz(sound.root + step, 4)
        wave += waves.tone(waves.ORGAN, hz, samples, onset_s=onset_s) * np.float32(loudness)
    return wave


def _arpeggio(sound: Arpeggio) -> Wave:
    """Root, third, fifth and octave, or the other way round, each as long, from the start."""
    steps = (*QUALITIES[sound.quality], 12)
    part = _ARPEGGIO_NOTE_STEPS * STEP_SAMPLES
    ordered = steps if sound.rising else steps[::-1]
    notes = []
    for i, step in enumerate(ordered):
        hz = pitch_hz(sound.root + step, 4)
        note = waves.tone(waves.ORGAN, hz, part, onset_s=i * part / RATE_HZ)
        notes.append(faded(note, attack_s=0.01, release_s=0.05))
    return placed(np.concatenate(notes) * np.float32(TONE_RMS), 0.0)
