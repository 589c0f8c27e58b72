"""How much of each stem a result holds, whatever its overall gain and phase.

Sound reaches the model as a log-mel, without phase; so stems are compared as power in small
pieces of time and frequency, where independent sounds add.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from omni_rt.export.miniature.data.clip import Wave
from omni_rt.export.miniature.tasks.spectrum import Floats, spectrogram

FLOOR_DB = -60.0  # what counts as nothing
_SIZE, _HOP = 512, 128
_BAND_BINS = 4
_FRAME_BLUR = (0.25, 0.25, 0.25, 0.25, 0.25)
_BAND_BLUR = (0.5, 1.0, 0.5)
_DYNAMICS = 1e-4  # pieces 40 dB below the loudest do not count
_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StemLevels:
    """Powers relative to the stems' own, of a result scaled to have the stems' energy."""

    first: float
    second: float
    hiss_share: float  # even noise against it and the first stem together
    scale: float  # what the result was multiplied by


def pieces(clip: Wave) -> Floats:
    """Power [frames, bands], 62.5 Hz by 64 ms, blurred: models are not exact in pitch and time."""
    power = spectrogram(clip, size=_SIZE, hop=_HOP)[:, : _SIZE // 2]
    bands = power.reshape(len(power), -1, _BAND_BINS).sum(axis=2)
    return _blurred(_blurred(bands, _FRAME_BLUR).T, _BAND_BLUR).T


def _blurred(rows: Floats, kernel: tuple[float, ...]) -> Floats:
    """Each row mixed with its neighbours."""
    reach = len(kernel) // 2
    padded = np.pad(rows, ((reach, reach), (0, 0)))
    return sum((k * padded[i : i + len(rows)] for i, k in enumerate(kernel)), np.zeros_like(rows))


def match_db(result: Floats, wanted: Floats) -> float:
    """How much of the result's energy the wanted sound explains: 0 dB all, FLOOR_DB nothing.

    The projection of one on the other, as magnitudes and at equal energy.
    """
    energy = float(result.sum() * wanted.sum())
    if energy == 0:
        return FLOOR_DB
    cosine = float(np.sqrt(result * wanted).sum()) / np.sqrt(energy)
    return max(FLOOR_DB, 20 * float(np.log10(max(cosine, 1e-9))))


def stem_levels(result: Floats, first: Floats, second: Floats, *, energy: float) -> StemLevels:
    """Non-negative: result ≈ a · first + b · second + c · even noise.

    A piece's power scatters as it is large, so each counts by its error relative to what is
    found there, which is repeated until that is known (the maximum likelihood of noise).
    """
    total = float(result.sum())
    if total == 0:
        return StemLevels(first=0.0, second=0.0, hiss_share=1.0, scale=0.0)
    scaled = (result * (energy / total)).ravel()
    even = np.full_like(scaled, energy / scaled.size)
    columns = np.stack([first.ravel(), second.ravel(), even], axis=1)
    least = _DYNAMICS * float(columns.max()) + 1e-12
    found = np.array([1.0, 1.0, 0.0])
    for _ in range(_ROUNDS):
        weight = 1 / (columns @ found + least)
        found = _non_negative(columns * weight[:, None], scaled * weight)
    stem, _, hiss = found * columns.sum(axis=0)
    return StemLevels(
        first=float(found[0]),
        second=float(found[1]),
        hiss_share=float(hiss / max(stem + hiss, 1e-12)),
        scale=energy / total,
    )


def _non_negative(columns: Floats, wanted: Floats) -> Floats:
    """The least-squares solution among those without negative coefficients, by trying all."""
    gram, target = columns.T @ columns, columns.T @ wanted
    best, best_cost = np.zeros(3), 0.0
    for size in (1, 2, 3):
        for used in combinations(range(3), size):
            index = np.array(used)
            found = np.linalg.lstsq(gram[np.ix_(index, index)], target[index], rcond=None)[0]
            cost = float(-found @ target[index])
            if found.min() >= 0 and cost < best_cost:
                best, best_cost = np.zeros(3), cost
                best[index] = found
    return best


def decibels(power: float) -> float:
    """10 log10, not below FLOOR_DB."""
    return max(FLOOR_DB, 10 * float(np.log10(max(power, 1e-12))))


def ratio_db(power: float, of: float) -> float:
    """Their ratio in dB, within ±FLOOR_DB; nothing of nothing is nothing."""
    if of <= 0:
        return FLOOR_DB if power <= 0 else -FLOOR_DB
    return min(-FLOOR_DB, decibels(power / of))
