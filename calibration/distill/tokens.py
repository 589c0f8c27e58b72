"""Conditioning of a request → the conditioners' tokens, unpadded; and such tokens as a batch.

What a request lacks (speech, a recording, a video) is kept as None: the tokens of silence are the
same for all. The conditioners are not trained, so their tokens are what a cache holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omni_rt.encode import Conditioning
from omni_rt.errors import ExportError
from omni_rt.export.reference.conditioners import shorten
from omni_rt.export.reference.model import AudioOmni
from omni_rt.preprocess import transcript

OPTIONAL = ("speech", "sync", "mel")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """Of one request, fp16 [tokens, W] each; None is silence."""

    words: Tensor
    speech: Tensor | None = None
    sync: Tensor | None = None
    mel: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Silence:
    """The tokens of what is not there."""

    speech: Tensor
    sync: Tensor
    mel: Tensor


@torch.no_grad()
def silence_of(model: AudioOmni) -> Silence:
    """As a session has them: the learned speech tokens, no video, a silent waveform."""
    sizes = model.sizes.conditioners
    waveform = torch.zeros(1, sizes.hop_samples * (sizes.mel_frames - 1))
    return Silence(
        speech=model.speech_prompt.empty_speech_feat[0],
        sync=model.sync_feature(torch.zeros(1, sizes.sync_rows, sizes.sync_width))[0],
        mel=model.audio_input_prompt(waveform)[0],
    )


@torch.no_grad()
def tokens_of(model: AudioOmni, given: Conditioning) -> Tokens:
    """The tokens of one request, as the graphs `transcript`, `context` and `signal` make them."""
    assert given.mel_keep is None  # only edits of speech mask their source
    sizes = model.sizes.conditioners
    hidden = shorten(torch.tensor(given.hidden), sizes.context_tokens)
    speech = sync = mel = None
    if given.transcript_ids is not None:
        ids = transcript.filled(given.transcript_ids, sizes.transcript_ids)
        speech = _half(model.speech_prompt.embed(torch.from_numpy(ids))[0])
    if given.sync is not None:
        sync = _half(model.sync_feature(torch.tensor(given.sync)[None])[0])
    if given.waveform is not None:
        mel = _half(model.audio_input_prompt(torch.tensor(given.waveform)[None])[0])
    return Tokens(words=_half(model.omni_prompt.project(hidden)), speech=speech, sync=sync, mel=mel)


def _half(tokens: Tensor) -> Tensor:
    found = tokens.to(torch.float16)
    if not torch.isfinite(found).all():
        raise ExportError("distill: the conditioners' tokens are not finite, or beyond fp16")
    return found


def collated(
    rows: Sequence[Tokens], silence: Silence, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Context [B, P, W], its mask [B, P] and low-level tokens [B, N, W], fp32 on `device`."""
    most = max(len(row.words) for row in rows)
    words = torch.stack(
        [F.pad(row.words.float(), (0, 0, 0, most - len(row.words))) for row in rows]
    )
    lengths = torch.tensor([len(row.words) for row in rows])
    mask = torch.arange(most) < lengths[:, None]
    speech = _filled([row.speech for row in rows], silence.speech)
    low_level = torch.cat(
        [
            _filled([row.sync for row in rows], silence.sync),
            _filled([row.mel for row in rows], silence.mel),
        ],
        dim=1,
    )
    context = torch.cat([words, speech], dim=1)
    mask = F.pad(mask, (0, speech.shape[1]), value=True)
    return context.to(device), mask.to(device), low_level.to(device)


def _filled(rows: Sequence[Tensor | None], absent: Tensor) -> Tensor:
    return torch.stack([absent.float() if row is None else row.float() for row in rows])
