"""The four conditioners: thinker states, sync features, transcript, log-mel (spec UPSTREAM §5).

Module and parameter names are the checkpoint's, below `conditioner.conditioners.`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionerSizes:
    """What the configuration and the tensors' shapes say about the conditioners."""

    cond_width: int  # of every token handed to the transformer, officially 768
    hidden_width: int  # of the thinker's states, officially 2048
    context_tokens: int
    sync_width: int
    sync_rows: int
    sync_tokens: int
    vocabulary: int  # rows of the character table: characters + 1
    text_width: int
    text_blocks: int
    transcript_ids: int
    transcript_tokens: int
    mel_bands: int
    mel_frames: int
    mel_tokens: int
    n_fft: int
    hop_samples: int
    mel_rate_hz: int


def rms_norm(x: Tensor) -> Tensor:
    """x·rsqrt(mean(x²) + 1e-6) over the last axis; no learned scale."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def over_time(x: Tensor, linear: nn.Linear) -> Tensor:
    """Apply a Linear along the time axis: [B, n, W] → [B, m, W]."""
    out: Tensor = linear(x.transpose(1, 2))
    return out.transpose(1, 2)


def shorten(hidden: Tensor, tokens: int) -> Tensor:
    """States [n, W] to at most `tokens` rows: linear interpolation, half-pixel centres."""
    if len(hidden) <= tokens:
        return hidden
    resized = F.interpolate(hidden.T[None], size=tokens, mode="linear", align_corners=False)
    return resized[0].T


class OmniPrompt(nn.Module):
    """Thinker states → tokens."""

    def __init__(self, sizes: ConditionerSizes) -> None:
        super().__init__()
        self.tokens = sizes.context_tokens
        self.proj_features = nn.Linear(sizes.hidden_width, sizes.cond_width)

    def project(self, hidden: Tensor) -> Tensor:
        """RMS-normalise in the states' own dtype, then project in the weights'."""
        return self.proj_features(rms_norm(hidden).to(self.proj_features.weight.dtype))

    def forward(self, hidden: Sequence[Tensor], *, truncate: bool = False) -> tuple[Tensor, Tensor]:
        """States of each item [n_i, W] → tokens [B, P, 768] and mask [B, P], padded to P.

        Over-long states are interpolated, or with `truncate` cut: the original's path for
        precomputed tensors.
        """
        kept = [h[: self.tokens] if truncate else shorten(h, self.tokens) for h in hidden]
        padded = torch.stack([F.pad(h, (0, 0, 0, self.tokens - len(h))) for h in kept])
        lengths = torch.tensor([len(h) for h in kept])
        return self.project(padded), torch.arange(self.tokens)[None] < lengths[:, None]


class SyncFeature(nn.Module):
    """Synchformer rows [B, 240, 768] → tokens [B, S, 768]."""

    def __init__(self, sizes: ConditionerSizes) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(sizes.sync_width)
        self.proj = nn.Linear(sizes.sync_width, sizes.cond_width)
        self.dim_project = nn.Linear(sizes.sync_rows, sizes.sync_tokens)

    def forward(self, sync: Tensor) -> Tensor:
        return over_time(self.proj(self.norm(sync)), self.dim_project)


class ResponseNorm(nn.Module):
    """Global response normalisation of ConvNeXt V2: norm over time, mean over channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        energy = x.square().sum(1, keepdim=True).sqrt()
        relative = energy / (energy.mean(-1, keepdim=True) + 1e-6)
        return self.gamma * (x * relative) + self.beta + x


class TextBlock(nn.Module):
    """ConvNeXt V2 block over characters [B, T, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, 2 * width)
        self.grn = ResponseNorm(2 * width)
        self.pwconv2 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.dwconv(x.transpose(1, 2)).transpose(1, 2))
        return x + self.pwconv2(self.grn(F.gelu(self.pwconv1(h))))


class TextEmbed(nn.Module):
    """Character ids [B, T] (0 = filler) → [B, T, W]; fillers are zero after every block."""

    positions: Tensor

    def __init__(self, sizes: ConditionerSizes) -> None:
        super().__init__()
        width = sizes.text_width
        self.text_embed = nn.Embedding(sizes.vocabulary, width)
        self.text_blocks = nn.ModuleList(TextBlock(width) for _ in range(sizes.text_blocks))
        frequency = 10_000.0 ** (-2 * torch.arange(width // 2, dtype=torch.float32) / width)
        angle = torch.arange(sizes.transcript_ids, dtype=torch.float32)[:, None] * frequency
        table = torch.cat([angle.cos(), angle.sin()], dim=-1)
        self.register_buffer("positions", table, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        character = (ids != 0)[..., None]
        x = (self.text_embed(ids) + self.positions) * character
        for block in self.text_blocks:
            x = block(x) * character
        return x


class SpeechPrompt(nn.Module):
    """Transcript ids → tokens, or the learned tokens of silence."""

    def __init__(self, sizes: ConditionerSizes) -> None:
        super().__init__()
        self.text_embed = TextEmbed(sizes)
        self.proj_features = nn.Linear(sizes.text_width, sizes.cond_width)
        self.proj_seq_len = (
            nn.Linear(sizes.transcript_ids, sizes.transcript_tokens)
            if sizes.transcript_ids != sizes.transcript_tokens
            else None
        )
        shape = (1, sizes.transcript_tokens, sizes.cond_width)
        self.empty_speech_feat = nn.Parameter(torch.empty(shape))

    def project(self, ids: Tensor) -> Tensor:
        """Everything before the final norm: ids [B, T] before the shift, −1 = filler."""
        x = self.proj_features(rms_norm(self.text_embed(ids + 1)))
        return x if self.proj_seq_len is None else over_time(x, self.proj_seq_len)

    def embed(self, ids: Tensor) -> Tensor:
        """Ids [B, T] int64 before the +1 shift, filled with −1 → tokens [B, 256, 768]."""
        return rms_norm(self.project(ids))

    def forward(self, ids: Sequence[Tensor | None]) -> Tensor:
        """As the original treats a batch: silence is normalised only beside speech."""
        if all(item is None for item in ids):
            return self.empty_speech_feat.expand(len(ids), -1, -1)
        rows = [
            self.empty_speech_feat[0] if item is None else self.project(item[None])[0]
            for item in ids
        ]
        return rms_norm(torch.stack(rows))


def mel_filterbank(bands: int, *, n_fft: int, rate_hz: int) -> Tensor:
    """Triangular HTK mel filters 0 … rate/2, [n_fft/2+1, bands], without area normalisation."""
    top = 2595.0 * math.log10(1.0 + rate_hz / 2 / 700.0)
    points = 700.0 * (10.0 ** (torch.linspace(0.0, top, bands + 2) / 2595.0) - 1.0)
    bins = torch.linspace(0.0, rate_hz // 2, n_fft // 2 + 1)
    width = points.diff()
    slope = points[None] - bins[:, None]
    rising, falling = -slope[:, :-2] / width[:-1], slope[:, 2:] / width[1:]
    return torch.minimum(rising, falling).clamp(min=0.0)


class AudioInputPrompt(nn.Module):
    """Waveform → log-mel → tokens."""

    window: Tensor
    filterbank: Tensor

    def __init__(self, sizes: ConditionerSizes) -> None:
        super().__init__()
        self.n_fft, self.hop, self.frames = sizes.n_fft, sizes.hop_samples, sizes.mel_frames
        self.proj_sequence_features = nn.Linear(sizes.mel_frames, sizes.mel_tokens)
        self.proj_features = nn.Linear(sizes.mel_bands, sizes.cond_width)
        shape = (1, sizes.mel_tokens, sizes.cond_width)
        self.empty_audio_feat = nn.Parameter(torch.zeros(shape))  # stored, never used
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)
        bank = mel_filterbank(sizes.mel_bands, n_fft=self.n_fft, rate_hz=sizes.mel_rate_hz)
        self.register_buffer("filterbank", bank, persistent=False)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """[B, samples] → [B, bands, samples // hop + 1], natural log, floor ln 1e-5."""
        spectrum = torch.stft(
            waveform, self.n_fft, self.hop, window=self.window, return_complex=True
        )
        mel = self.filterbank.T @ spectrum.abs()
        return mel.clamp(min=1e-5).log()

    def project(self, log_mel: Tensor) -> Tensor:
        """[B, bands, frames] → tokens [B, mel_tokens, 768]."""
        x = self.proj_sequence_features(log_mel)
        return rms_norm(self.proj_features(x.transpose(1, 2)))

    def forward(self, waveform: Tensor) -> Tensor:
        return self.project(self.log_mel(waveform))
