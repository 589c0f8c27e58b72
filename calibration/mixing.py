"""Two sounds in one recording, mixed as the AudioEdit paper mixes them; and sounds to mix.

Waves are float64 [samples], mono, nominally in [−1, 1]. All is a function of arrays and of a
seeded stream, whose numbers are the same in every NumPy. Raises ExportError for unusable waves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from omni_rt.errors import ExportError

Wave: TypeAlias = NDArray[np.float64]
Spectra: TypeAlias = NDArray[np.complex128]  # [frames, bins]
Stream: TypeAlias = np.random.RandomState

SNR_DB, SEMITONES, STRETCH = (0.0, 3.0), (-3.0, 3.0), (0.8, 1.2)

_LIMITS = (0.25, 4.0)  # of a stretch: beyond, frames no longer overlap where they are read
_HOP_S = 0.0116  # a frame is four hops, 46 ms: harmonics of speech stay apart
_BLOCK_S = 0.01
_SOUNDING_DB = -40.0
_SILENT_BIN = 1e-3  # of the loudest
_FORMANTS_HZ = (250, 700, 2200), (850, 2100, 3200)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mixture:
    """Stems and their sum, each [samples] and within ±1."""

    first: Wave
    second: Wave
    both: Wave
    onset_samples: int  # of the second
    snr_db: float  # the first over the second, where both sound


def checked(wave: ArrayLike, *, what: str = "a sound") -> Wave:
    """The wave as float64 [samples]. Raises ExportError unless it is mono, finite, not empty."""
    found = np.asarray(wave, np.float64)
    if found.ndim != 1 or found.size == 0:
        raise ExportError(f"{what} must be [samples] and not empty, got shape {found.shape}")
    if not np.isfinite(found).all():
        raise ExportError(f"{what} holds NaN or infinite samples")
    return found


def stretched(wave: ArrayLike, factor: float, *, rate_hz: int) -> Wave:
    """The sound lasting `factor` times as long, [round(n · factor)], its pitches kept.

    A phase vocoder: Hann-windowed frames are read every hop / factor and laid every hop. How far a
    bin's phase turns in a hop is the difference to the frame one hop earlier in the source, so
    that nothing is unwrapped, and factor 1 gives the wave itself, up to rounding. A bin that was
    silent begins with the source's phase, where its own would be made of rounding errors.
    """
    given = checked(wave)
    if not _LIMITS[0] <= factor <= _LIMITS[1]:
        raise ExportError(f"a stretch must lie within {_LIMITS}, got {factor!r}")
    hop = max(16, round(_HOP_S * rate_hz))
    total = max(1, round(len(given) * factor))
    count = -(-total // hop) + 1
    centres = np.rint(np.arange(count) * hop / factor).astype(np.int64)
    after = max(0, int(centres[-1]) + 2 * hop - len(given))
    padded = np.pad(given, (3 * hop, after))  # a frame's two hops, and the one before it
    shape = np.hanning(4 * hop + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, 4 * hop)
    now, before = np.fft.rfft(frames[centres + hop] * shape), np.fft.rfft(frames[centres] * shape)
    laid = np.fft.irfft(np.abs(now) * np.exp(1j * _phases(now, before)), 4 * hop) * shape
    weight = _overlapped(np.broadcast_to(shape**2, laid.shape))
    return (_overlapped(laid) / np.maximum(weight, 1e-3))[2 * hop : 2 * hop + total]


def _phases(now: Spectra, before: Spectra) -> Wave:
    """Phases [frames, bins] that turn on from frame to frame, where both of a turn's are heard."""
    own, least = np.angle(now), _SILENT_BIN * np.abs(now).max()
    turns, silent = own - np.angle(before), np.abs(before) < least
    silent[1:] |= np.abs(now[:-1]) < least
    out = own.copy()
    for i in range(1, len(out)):
        out[i] = np.where(silent[i], own[i], out[i - 1] + turns[i])
    return out


def _overlapped(frames: Wave) -> Wave:
    """The sum [(count + 3) · hop] of frames [count, 4 · hop] that are a hop apart."""
    count, hop = len(frames), frames.shape[1] // 4
    out = np.zeros((count + 3, hop))
    for quarter in range(4):
        out[quarter : quarter + count] += frames[:, quarter * hop : (quarter + 1) * hop]
    return out.ravel()


def pitch_shifted(wave: ArrayLike, semitones: float, *, rate_hz: int, stretch: float = 1.0) -> Wave:
    """The sound with all frequencies times 2^(semitones / 12), `stretch` times as long as before.

    [round(n · stretch)]. It is stretched by that ratio too, then resampled by it (soxr); what would
    lie above half the rate is gone. Raises ExportError beyond two octaves.
    """
    import soxr

    given = checked(wave)
    ratio = 2.0 ** (semitones / 12)
    longer = stretched(given, ratio * stretch, rate_hz=rate_hz)
    out = soxr.resample(longer, ratio * rate_hz, rate_hz, quality="VHQ")
    return _fitted(np.asarray(out, np.float64), max(1, round(len(given) * stretch)))


def _fitted(wave: Wave, samples: int) -> Wave:
    """Cut, or padded with zeros, at its end."""
    return np.pad(wave[:samples], (0, max(0, samples - len(wave))))


def sounding(wave: Wave, *, rate_hz: int) -> NDArray[np.bool_]:
    """Where [n] a sound is heard: in blocks of 10 ms within 40 dB of the loudest one's power."""
    block = max(1, round(_BLOCK_S * rate_hz))
    padded = np.pad(wave, (0, -len(wave) % block)).reshape(-1, block)
    power = np.square(padded).mean(axis=1)
    return np.repeat(power > power.max() * 10 ** (_SOUNDING_DB / 10), block)[: len(wave)]


def measured_snr_db(first: Wave, second: Wave, *, rate_hz: int) -> float:
    """Power of the first over the second where both sound, in dB.

    Where they never do at once (clicks), each is measured where it sounds itself.
    """
    own = [sounding(wave, rate_hz=rate_hz) for wave in (first, second)]
    both = own[0] & own[1]
    where = (both, both) if both.any() else own
    powers = [np.square(w[at]).mean() for w, at in zip((first, second), where, strict=True)]
    return float(10 * np.log10(powers[0] / powers[1]))


def mixed(
    first: ArrayLike,
    second: ArrayLike,
    *,
    snr_db: float,
    onset_samples: int,
    samples: int,
    rate_hz: int,
) -> Mixture:
    """`first` from 0 and `second` from its onset on, in a recording of so many samples.

    The second's level makes the SNR (see `measured_snr_db`); then all get softer by one factor if
    any would exceed ±1. Raises ExportError if either is silent within the recording.
    """
    if not 0 <= onset_samples < samples:
        raise ExportError(f"an onset must lie within {samples} samples, got {onset_samples}")
    one = _fitted(checked(first, what="the first sound"), samples)
    late = np.pad(checked(second, what="the second sound"), (onset_samples, 0))
    other = _fitted(late, samples)
    for stem, name in ((one, "first"), (other, "second")):
        if not stem.any():
            raise ExportError(f"the {name} sound is silent: nothing can be mixed with it")
    other = other * 10 ** ((measured_snr_db(one, other, rate_hz=rate_hz) - snr_db) / 20)
    louder = max(1.0, *(float(np.abs(wave).max()) for wave in (one, other, one + other)))
    one, other = one / louder, other / louder
    both = np.clip(one + other, -1.0, 1.0)  # one ulp at most
    return Mixture(first=one, second=other, both=both, onset_samples=onset_samples, snr_db=snr_db)


def draw_mixture(
    first: ArrayLike, second: ArrayLike, stream: Stream, *, samples: int, rate_hz: int
) -> Mixture:
    """Two sounds as the AudioEdit paper mixes them, in a recording [samples].

    Each is shifted by up to ±3 semitones and lasts 0.8 to 1.2 times as long; the second begins at
    a random moment of the first and is 0 to 3 dB softer.
    """
    stems = []
    for wave in (first, second):
        pitch, stretch = stream.uniform(*SEMITONES), stream.uniform(*STRETCH)
        stems.append(pitch_shifted(wave, pitch, rate_hz=rate_hz, stretch=stretch))
    span = min(len(stems[0]), samples)
    latest = max(span - len(stems[1]), span // 2)  # else a sound as long as the first never moves
    snr_db, onset = float(stream.uniform(*SNR_DB)), int(stream.randint(max(1, latest)))
    return mixed(*stems, snr_db=snr_db, onset_samples=onset, samples=samples, rate_hz=rate_hz)


def procedural(kind: str, stream: Stream, *, rate_hz: int, samples: int) -> Wave:
    """A sound [samples] of one of KINDS: peak 1, faded at both ends."""
    time_s = np.arange(samples) / rate_hz
    wave = _SOUNDS[kind](stream, time_s, rate_hz)
    ends_s = np.minimum(time_s, time_s[::-1])
    wave = wave * np.minimum(1.0, (ends_s + 1 / rate_hz) / 0.005)
    return np.asarray(wave / max(1e-9, np.abs(wave).max()), np.float64)


def _tone(stream: Stream, time_s: Wave, rate_hz: int) -> Wave:
    hz, slope = min(80 * 2 ** stream.uniform(0, 4), rate_hz / 4), stream.uniform(0.7, 3)
    turns = hz * (time_s + stream.uniform(0, 0.0005) * np.sin(2 * np.pi * 5 * time_s))
    overtones = range(1, max(1, min(12, int(0.45 * rate_hz / hz))) + 1)
    return np.asarray(sum(k**-slope * np.sin(2 * np.pi * k * turns) for k in overtones))


def _noise(stream: Stream, time_s: Wave, rate_hz: int) -> Wave:
    spectrum = np.fft.rfft(stream.standard_normal(len(time_s)))
    hz = np.fft.rfftfreq(len(time_s), 1 / rate_hz)
    wave = np.fft.irfft(spectrum * np.maximum(hz, 20) ** stream.uniform(-1, 0.5), len(time_s))
    gusts = 1.01 + np.sin(2 * np.pi * stream.uniform(0.2, 4) * time_s + stream.uniform(0, 6))
    return np.asarray(wave * gusts ** stream.uniform(0, 4))


def _chirp(stream: Stream, time_s: Wave, rate_hz: int) -> Wave:
    low, octaves = rate_hz * stream.uniform(0.005, 0.02), stream.uniform(1, 4)
    along = (time_s * stream.uniform(0.1, 3)) % 1
    along = along if stream.randint(2) else 1 - along
    return np.sin(2 * np.pi * np.cumsum(low * 2 ** (octaves * along)) / rate_hz)


def _chord(stream: Stream, time_s: Wave, rate_hz: int) -> Wave:
    since_s = time_s % stream.uniform(0.4, 3)
    root_hz = min(110 * 2 ** stream.uniform(0, 2), rate_hz / 20)
    third = 3 + int(stream.randint(2))
    parts = [(2 ** (step / 12), k) for step in (0, third, 7, 12) for k in (1, 2, 3)]
    struck = sum(np.sin(2 * np.pi * root_hz * n * k * time_s) / k**2 for n, k in parts)
    return np.asarray(struck * np.exp(-since_s * stream.uniform(0.1, 4)))


def _clicks(stream: Stream, time_s: Wave, rate_hz: int) -> Wave:
    since_s = time_s % stream.uniform(0.06, 0.8)
    hz, decay_s = rate_hz * stream.uniform(0.02, 0.3), stream.uniform(0.001, 0.01)
    return np.exp(-since_s / decay_s) * np.cos(2 * np.pi * hz * since_s)


def _voice(stream: Stream, time_s: Wave, rate_hz: int) -> Wave:
    """Pulses through three resonances that move with every syllable, and some breath."""
    pitch_hz = stream.uniform(90, 230) * (1 + 0.15 * np.sin(2 * np.pi * 0.7 * time_s))
    pulses = np.diff(np.floor(np.cumsum(pitch_hz) / rate_hz), prepend=0.0)
    pulses = pulses + 0.02 * stream.standard_normal(len(time_s))
    length, out = max(1, round(stream.uniform(0.15, 0.3) * rate_hz)), np.zeros(len(time_s))
    for start in range(0, len(time_s), length):
        loud, formants = start == 0 or stream.uniform() > 0.15, stream.uniform(*_FORMANTS_HZ)
        part = pulses[start : start + length]
        hz = np.fft.rfftfreq(len(part), 1 / rate_hz)[:, None]
        gain = (1 / (1 + ((hz - formants) / 90) ** 2)).sum(axis=1)
        said = np.fft.irfft(np.fft.rfft(part) * gain, len(part))
        out[start : start + length] = loud * said * np.hanning(len(part) + 2)[1:-1]
    return out


KINDS = ("tone", "noise", "chirp", "chord", "clicks", "voice")
_SOUNDS = dict(zip(KINDS, (_tone, _noise, _chirp, _chord, _clicks, _voice), strict=True))
