"""What must be true of a part before the next one is trained: its scores, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from omni_rt.errors import ExportError
from omni_rt.export.miniature.data import (
    AUDIO_KINDS,
    QUESTION_KINDS,
    RATE_HZ,
    Example,
    Wave,
    draw,
)
from omni_rt.export.miniature.tasks import score, score_answer
from omni_rt.export.reference.autoencoder import Oobleck

VAE_FLOOR = 0.95  # of every kind of sound, through the autoencoder alone
ANSWER_FLOOR = 0.90  # of every kind of question
_RESAMPLES = 2000
_ASKED_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How many of `count` examples passed, and the 95 % bootstrap interval of that share."""

    passed: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, results: list[bool], *, seed: int = 0) -> Share:
        values = np.array(results, np.float64)
        stream = np.random.RandomState(seed)
        means = values[stream.randint(0, len(values), (_RESAMPLES, len(values)))].mean(axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        return cls(passed=float(values.mean()), low=float(low), high=float(high), count=len(values))


@torch.inference_mode()
def through(vae: Oobleck, wave: Wave) -> Wave:
    """What the autoencoder makes of a sound [n] at full peak: of its mean, not of a sample."""
    peak = max(float(np.abs(wave).max()), 1e-6)
    clip = torch.from_numpy((wave / peak).astype(np.float32)).expand(1, 2, -1)
    out: Wave = vae.decode(vae.encode(clip)[0])[0].mean(0).numpy()
    return out


def vae_shares(
    vae: Oobleck, *, count: int, seed: int = 2026, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Share]:
    """The share of right sounds that are still right after the autoencoder, by kind."""
    shares = {}
    for kind in AUDIO_KINDS:
        stream = np.random.RandomState([seed, sum(kind.encode())])
        results = []
        for _ in range(count):
            example = draw(kind, stream)
            assert example.target is not None
            results.append(score(example, through(vae, example.target), RATE_HZ).passed)
        shares[kind] = Share.of(results)
        tell(f"{kind}: {shares[kind].passed:.3f} of {count}")
    return shares


def answer_shares(
    ask: Callable[[list[Example]], list[str]],
    *,
    count: int,
    seed: int = 2026,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Share]:
    """The share of questions answered exactly, by kind; `ask` answers a few at a time."""
    shares = {}
    for kind in QUESTION_KINDS:
        stream = np.random.RandomState([seed, sum(kind.encode())])
        examples = [draw(kind, stream) for _ in range(count)]
        replies = []
        for start in range(0, count, _ASKED_AT_ONCE):
            replies += ask(examples[start : start + _ASKED_AT_ONCE])
        pairs = zip(examples, replies, strict=True)
        shares[kind] = Share.of([score_answer(example, reply).passed for example, reply in pairs])
        tell(f"{kind}: {shares[kind].passed:.3f} of {count}")
    return shares


def check_gate(shares: Mapping[str, Share], floor: float = VAE_FLOOR) -> None:
    """Raise ExportError naming the kinds below the floor."""
    low = [f"{kind} {share.passed:.3f}" for kind, share in shares.items() if share.passed < floor]
    if low:
        raise ExportError(f"below {floor:g}, so nothing is trained on it: {', '.join(low)}")
