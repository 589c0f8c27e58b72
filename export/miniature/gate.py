"""What must be true of a part before the next one is trained: its scores, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from omni_rt.errors import ExportError
from omni_rt.export.miniature.conditioning import sync_segments
from omni_rt.export.miniature.data import (
    AUDIO_KINDS,
    QUESTION_KINDS,
    RATE_HZ,
    Example,
    Wave,
    held_out,
)
from omni_rt.export.miniature.share import Share
from omni_rt.export.miniature.tasks import score, score_answer
from omni_rt.export.miniature.train_synchformer import tubelet_colours
from omni_rt.export.reference.autoencoder import Oobleck
from omni_rt.export.reference.synchformer import Synchformer

VAE_FLOOR = 0.95  # of every kind of sound, through the autoencoder alone
ANSWER_FLOOR = 0.90  # of every kind of question
COLOUR_FLOOR = 0.95  # of videos, each tubelet's colours read from its row
_COLOUR_MISS = 0.2  # of a range of 2
_ASKED_AT_ONCE = 20


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
        results = []
        for example in islice(held_out(kind, seed=seed), count):
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
        examples = list(islice(held_out(kind, seed=seed), count))
        replies = []
        for start in range(0, count, _ASKED_AT_ONCE):
            replies += ask(examples[start : start + _ASKED_AT_ONCE])
        pairs = zip(examples, replies, strict=True)
        shares[kind] = Share.of([score_answer(example, reply).passed for example, reply in pairs])
        tell(f"{kind}: {shares[kind].passed:.3f} of {count}")
    return shares


@torch.inference_mode()
def colour_shares(
    synchformer: Synchformer,
    *,
    count: int,
    seed: int = 2026,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Share]:
    """The share of videos whose rows tell every tubelet's colours, by a linear map of all rows.

    The map is fitted to as many other videos.
    """
    rows: dict[str, list[Tensor]] = {}
    colours: dict[str, list[Tensor]] = {}
    for kind in ("flashes", "scene"):
        videos = islice(held_out(kind, seed=seed), 2 * count)
        shown = [example.frames for example in videos if example.frames is not None]
        rows[kind] = [synchformer(sync_segments(frames)) for frames in shown]
        colours[kind] = [tubelet_colours(frames) for frames in shown]
        tell(f"{kind}: seen")
    known = torch.cat([row for kind in rows.values() for row in kind[count:]])
    wanted = torch.cat([colour for kind in colours.values() for colour in kind[count:]])
    readout = torch.linalg.lstsq(_with_one(known), wanted).solution
    return {
        kind: Share.of(
            [
                bool(((_with_one(row) @ readout - colour).abs() < _COLOUR_MISS).all())
                for row, colour in zip(rows[kind][:count], colours[kind][:count], strict=True)
            ]
        )
        for kind in rows
    }


def _with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)


def check_gate(shares: Mapping[str, Share], floor: float = VAE_FLOOR) -> None:
    """Raise ExportError naming the kinds below the floor."""
    low = [f"{kind} {share.passed:.3f}" for kind, share in shares.items() if share.passed < floor]
    if low:
        raise ExportError(f"below {floor:g}, so nothing is trained on it: {', '.join(low)}")
