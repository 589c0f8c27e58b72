"""Results as a model might make them: right but imperfect, wrong, or empty."""

from __future__ import annotations

import numpy as np

from omni_rt.export.miniature.data import RATE_HZ, Example, Stream, Wave, draw
from omni_rt.export.miniature.tasks import score


def stream(*seed: int) -> Stream:
    return np.random.RandomState(list(seed))


def examples(kind: str, n: int) -> list[Example]:
    drawn = stream(2026, sum(kind.encode()))
    return [draw(kind, drawn) for _ in range(n)]


def target(example: Example) -> Wave:
    assert example.target is not None
    return example.target


def degraded(wave: Wave, drawn: Stream, *, snr_db: float = 15.0, shift_samples: int = 80) -> Wave:
    """Low-passed at 3.4 kHz, up to 10 ms late (some begin with the clip), noisy, at any gain."""
    hz = np.fft.rfftfreq(len(wave), 1 / RATE_HZ)
    soft = np.fft.irfft(np.fft.rfft(wave) / np.sqrt(1 + (hz / 3400) ** 4), len(wave))
    soft = np.roll(soft, drawn.randint(shift_samples + 1))
    noise = drawn.standard_normal(len(wave))
    noise *= np.sqrt(np.mean(soft**2) / np.mean(noise**2) / 10 ** (snr_db / 10))
    return ((soft + noise) * 10 ** drawn.uniform(-1, 1)).astype(np.float32)


def white(drawn: Stream, samples: int = 16_384) -> Wave:
    return drawn.standard_normal(samples).astype(np.float32)


def share_passed(pairs: list[tuple[Example, Wave]]) -> float:
    return float(np.mean([score(example, wave, RATE_HZ).passed for example, wave in pairs]))
