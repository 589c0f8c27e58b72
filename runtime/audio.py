"""Sound in memory: samples, their rate, and how they came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from omni_rt.errors import RequestError
from omni_rt.whole_file import checked_target, draft_of

Samples = NDArray[np.float32]
Encoded: TypeAlias = "Samples | NDArray[np.int16] | NDArray[np.int32]"

MAX_CHANNELS = 8
_BLOCK_FRAMES = 16_384
_LONGEST_S = 24 * 3600.0
_UNKNOWN_FRAMES = 1 << 40
_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
_LOSSLESS = ("WAV", "FLAC")


@dataclass(frozen=True, eq=False)
class Audio:
    """Samples float32 [channels, samples], nominally in [−1, 1].

    recorded: they were read, not made by the model; then lossless files keep them to the bit.
    """

    samples: Samples = field(repr=False)
    sample_rate_hz: int
    made: Mapping[str, Any] = field(default_factory=dict)  # task, prompt, seed, plan, bundle …
    recorded: bool = False

    def __post_init__(self) -> None:
        given = np.asarray(self.samples)
        if not np.issubdtype(given.dtype, np.floating):
            raise RequestError(
                f"samples must be floats in [-1, 1], got {given.dtype}: divide 16-bit ones by 32768"
            )
        samples = given.astype(np.float32, copy=False)
        if samples.ndim != 2 or not 1 <= samples.shape[0] <= MAX_CHANNELS:
            raise RequestError(
                f"audio must be [channels, samples] with 1 to {MAX_CHANNELS} channels, "
                f"got shape {samples.shape}"
            )
        rate = self.sample_rate_hz
        if not isinstance(rate, (int, np.integer)) or not 0 < rate < 2**31:
            raise RequestError(f"sample rate must be a positive integer, got {rate!r}")
        object.__setattr__(self, "samples", samples)

    @property
    def duration_s(self) -> float:
        return float(self.samples.shape[1] / self.sample_rate_hz)

    @classmethod
    def read(cls, path: str | Path, *, max_duration_s: float | None = None) -> Audio:
        """Decode a file of any format that libsndfile reads (wav, flac, ogg, mp3 …).

        Raises RequestError if it is missing, empty, not audio, has more than 8 channels, or lasts
        longer than `max_duration_s` (checked before anything is decoded).
        """
        import soundfile

        try:
            if not Path(path).is_file():
                raise RequestError(f"no audio file at {path}")
            with soundfile.SoundFile(path) as file:
                samples, rate = _decoded(file, path, max_duration_s), file.samplerate
        except (soundfile.LibsndfileError, OSError, TypeError, MemoryError) as error:
            # TypeError: a headerless file, whose rate nobody knows
            raise RequestError(f"{path} is not audio that can be decoded: {error}") from error
        return cls(np.ascontiguousarray(samples), rate, {"file": Path(path).name}, recorded=True)

    def int16(self) -> NDArray[np.int16]:
        """16-bit samples as the original makes them: clamped, ×32767, truncated toward zero."""
        return (np.clip(self.samples, -1.0, 1.0) * np.float32(32767)).astype(np.int16)

    def _pcm(self) -> Samples:
        """The 16-bit samples as floats, which every encoder takes."""
        return self.int16().astype(np.float32) / np.float32(32768)

    def _encoded(self, kind: str, *, loud: bool) -> tuple[Encoded, str | None]:
        """Samples as a file of this kind takes them, and the subtype that holds them."""
        if kind in _LOSSLESS and self.recorded:
            bits = grid_bits(self.samples) or (24 if kind == "FLAC" else None)
            if bits == 16:
                return _steps(self.samples, 16).astype(np.int16), "PCM_16"
            if bits == 24:  # the encoder takes the upper 24 of 32 bits
                return _steps(self.samples, 24).astype(np.int32) << 8, "PCM_24"
            return self.samples, "FLOAT"
        return (self.samples, "FLOAT") if loud else (self._pcm(), None)

    def save(self, path: str | Path) -> Path:
        """Write a .wav, .flac, .ogg or .mp3, whole or not at all; 16 bit where that is a choice.

        A recording (`recorded`) keeps its samples to the bit in a .wav or .flac, of 16 or 24 bits
        as it has them; others are kept in a float .wav, and rounded to 24 bits in a .flac.
        Samples beyond ±1 (raw output) are kept, in a float .wav. Raises RequestError for them in
        another format, for another suffix, and for a folder that is not there.
        """
        import soundfile

        target, kind = check_target(path)
        loud = float(np.abs(self.samples).max(initial=0.0)) > 1.0
        if loud and kind != "WAV":
            raise RequestError(f"cannot write {target.name}: samples exceed ±1; use .wav")
        with draft_of(target) as draft:
            samples, subtype = self._encoded(kind, loud=loud)
            try:
                _write(draft, samples, self.sample_rate_hz, kind, subtype)
            except soundfile.LibsndfileError as error:
                raise RequestError(f"cannot write {target}: {error}") from error
        return target


def _decoded(file: Any, path: str | Path, max_duration_s: float | None) -> Samples:
    """All samples [channels, n] of an open file. Raises RequestError if there are too many."""
    if file.channels > MAX_CHANNELS:
        raise RequestError(
            f"{path} has {file.channels} channels; at most {MAX_CHANNELS} are supported"
        )
    longest = _LONGEST_S if max_duration_s is None else max_duration_s
    limit = round(longest * file.samplerate)
    # a stream's header may not know its length; then the decoder is asked for one sample too many
    known = file.frames < _UNKNOWN_FRAMES
    if not known or file.frames <= limit:
        samples: Samples = file.read(-1 if known else limit + 1, "float32", always_2d=True).T
        if samples.shape[1] <= limit:
            return samples
    raise RequestError(f"{path} is too long: at most {longest:g} s are supported, cut it first")


def _write(path: Path, samples: Encoded, rate_hz: int, kind: str, subtype: str | None) -> None:
    """Encode in blocks: libvorbis overflows the stack when it gets a minute at once."""
    import soundfile

    with soundfile.SoundFile(
        path, "w", samplerate=rate_hz, channels=len(samples), format=kind, subtype=subtype
    ) as file:
        for start in range(0, samples.shape[1], _BLOCK_FRAMES):
            file.write(samples[:, start : start + _BLOCK_FRAMES].T)


def check_target(path: str | Path) -> tuple[Path, str]:
    """The path and its format. Raises RequestError for a suffix or folder that cannot be."""
    return checked_target(path, _FORMATS)


def peak_normalised(samples: Samples) -> Samples:
    """Samples over their largest magnitude; silence stays silence (spec UPSTREAM §7)."""
    peak = np.abs(samples).max(initial=0.0)
    return samples / peak if peak > 0 else samples


def grid_bits(samples: Samples) -> int | None:
    """16 or 24 if integer samples of so many bits hold these exactly, else None."""
    return next((b for b in (16, 24) if np.array_equal(on_grid(samples, b), samples)), None)


def on_grid(samples: Samples, bits: int | None) -> Samples:
    """The nearest samples that integers of so many bits hold; as they are for None."""
    if bits is None:
        return samples
    return _steps(samples, bits) / np.float32(1 << (bits - 1))


def _steps(samples: Samples, bits: int) -> Samples:
    """The nearest integers: k of k / 2^(bits − 1), within the range of two's complement."""
    full = np.float32(1 << (bits - 1))
    steps: Samples = np.clip(np.rint(samples * full), -full, full - 1)
    return steps
