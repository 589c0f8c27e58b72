"""The exact regrouping: what runs once, and what runs in every step (spec UPSTREAM §12).

Each stage is a torch module whose inputs and outputs are the graph's, by name, and whose parameters
are the checkpoint's, taken apart only where a fused projection is split. All of it is algebra:

- the context's and the prepended tokens' embeddings, and every layer's cross-attention keys and
  values, do not depend on x or t, so `context` and `signal` compute them once;
- only valid context tokens are kept, so no mask is needed but for padding in a batch;
- without biases a context of zeros gives keys and values of zero and a cross-attention of exactly
  zero, so unconditional rows skip it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_rt.export.reference.autoencoder import Conv, ConvTranspose, Oobleck
from omni_rt.export.reference.conditioners import (
    AudioInputPrompt,
    ConditionerSizes,
    OmniPrompt,
    SpeechPrompt,
    SyncFeature,
)
from omni_rt.export.reference.dit import (
    DitSizes,
    FeedForward,
    FourierFeatures,
    LayerNorm,
    RotaryAngles,
    merge_heads,
    split_heads,
    tokens_made,
    two_layer,
)
from omni_rt.export.spectrum import check_fft_size, fourier_tables, frames_of, rfft


class StepSelfAttention(nn.Module):
    """Self-attention with the fused projection split, so that each part can be rounded."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, last: int) -> Tensor:
        """X [R, n, D]; cos, sin [n, rot/2] → of the last so many tokens, [R, last, D].

        All tokens are asked, even those that nothing reads: keys, queries and values share an input
        in every block, and so its rounding.
        """
        asked = split_heads(self.to_q(x)[:, -last:], self.heads)
        q = rotate_by(asked, cos[-last:], sin[-last:])
        k = rotate_by(split_heads(self.to_k(x), self.heads), cos, sin)
        v = split_heads(self.to_v(x), self.heads)
        weights = (q * self.scale @ k.transpose(-1, -2)).softmax(-1)
        return self.to_out(merge_heads(weights @ v))


def rotate_by(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotary embedding of the first 2·k dims of x [R, H, n, d]; cos, sin [n, k]."""
    half = cos.shape[-1]
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


class StepCrossAttention(nn.Module):
    """Attention to keys and values that `context` computed; an additive bias hides padding."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """X [Q, n, D]; k, v [Q, H, P, d]; bias [Q, 1, 1, P]."""
        q = split_heads(self.to_q(x), self.heads) * self.scale
        weights = (q @ k.transpose(-1, -2) + bias).softmax(-1)
        return self.to_out(merge_heads(weights @ v))


class StepBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.pre_norm = LayerNorm(width)
        self.self_attn = StepSelfAttention(width, heads)
        self.cross_attend_norm = LayerNorm(width)
        self.cross_attn = StepCrossAttention(width, heads)
        self.ff_norm = LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        k: Tensor,
        v: Tensor,
        bias: Tensor,
        *,
        last: int,
    ) -> Tensor:
        """The last so many tokens; rows beyond those of k (unconditional) skip cross-attention."""
        x = x[:, -last:] + self.self_attn(self.pre_norm(x), *angles, last)
        attending, others = split_rows(x, k.shape[0])
        crossed = self.cross_attn(self.cross_attend_norm(attending), k, v, bias)
        x = torch.cat([attending + crossed, others])
        return x + self.ff(self.ff_norm(x))


def split_rows(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The first rows and the rest, in a form whose sizes a tracer adds up to x's own again."""
    torch._check(first <= x.shape[0])
    return x.narrow(0, 0, first), x.narrow(0, first, x.shape[0] - first)


class StepTransformer(nn.Module):
    def __init__(self, sizes: DitSizes) -> None:
        super().__init__()
        self.project_in = nn.Linear(sizes.latent_channels, sizes.width, bias=False)
        self.project_out = nn.Linear(sizes.width, sizes.latent_channels, bias=False)
        self.rotary_pos_emb = RotaryAngles(sizes.rotary_width)
        self.layers = nn.ModuleList(StepBlock(sizes.width, sizes.heads) for _ in range(sizes.depth))


class DitStep(nn.Module):
    """One evaluation of the velocity, for any mixture of conditional and unconditional rows."""

    def __init__(self, sizes: DitSizes) -> None:
        super().__init__()
        self.timestep_features = FourierFeatures(sizes.time_features)
        self.to_timestep_embed = two_layer(2 * sizes.time_features, sizes.width, bias=True)
        self.transformer = StepTransformer(sizes)
        channels = sizes.latent_channels
        self.preprocess_conv = nn.Conv1d(channels, channels, 1, bias=False)
        self.postprocess_conv = nn.Conv1d(channels, channels, 1, bias=False)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        prepend: Tensor,
        context_bias: Tensor,
        cache: list[Tensor],
    ) -> Tensor:
        """X [R,C,L], t [R], prepend [R,N,D], context_bias [Q,1,1,P] → v [R,C,L].

        cache: keys and values k_00, v_00, k_01 … of the layers, [Q,H,P,d] each.
        """
        transformer = self.transformer
        tau = self.to_timestep_embed(self.timestep_features(t))[:, None]
        x = x + self.preprocess_conv(x)
        tokens = torch.cat([prepend + tau, transformer.project_in(x.transpose(1, 2))], dim=1)
        angles = transformer.rotary_pos_emb(tokens.shape[1])
        turned = (angles.cos(), angles.sin())
        made = tokens_made(tokens.shape[1], x.shape[2], depth=len(transformer.layers))
        for layer, k, v, last in zip(
            transformer.layers, cache[::2], cache[1::2], made, strict=True
        ):
            tokens = layer(tokens, turned, k, v, context_bias, last=last)
        y = transformer.project_out(tokens).transpose(1, 2)
        return y + self.postprocess_conv(y)


class CachedProjections(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)


class ContextLayer(nn.Module):
    """Keys and values of one layer's cross-attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cross_attn = CachedProjections(width)

    def forward(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """[1, P, D] → k and v, [1, P, D] each."""
        return self.cross_attn.to_k(embedded), self.cross_attn.to_v(embedded)


class Context(nn.Module):
    """Thinker states and transcript tokens → keys and values of every layer."""

    def __init__(self, sizes: DitSizes, conditioners: ConditionerSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.omni_prompt = OmniPrompt(conditioners)
        self.to_cond_embed = two_layer(sizes.cond_width, sizes.width, bias=False)
        self.layers = nn.ModuleList(ContextLayer(sizes.width) for _ in range(sizes.depth))

    def forward(self, hidden: Tensor, transcript: Tensor) -> tuple[Tensor, ...]:
        """Hidden [1,n,2048] (valid only), transcript [1,256,768] → k_00, v_00, … [1,H,P,d]."""
        tokens = torch.cat([self.omni_prompt.project(hidden), transcript], dim=1)
        embedded = self.to_cond_embed(tokens)
        outputs: list[Tensor] = []
        for layer in self.layers:
            outputs += [split_heads(part, self.heads) for part in layer(embedded)]
        return tuple(outputs)


class Signal(nn.Module):
    """Waveform and sync features → the tokens prepended to the latents, without their τ."""

    fourier_first: Tensor
    fourier_turns: Tensor
    fourier_second: Tensor

    def __init__(self, sizes: DitSizes, conditioners: ConditionerSizes) -> None:
        super().__init__()
        check_fft_size(conditioners.n_fft)
        self.sync_feature = SyncFeature(conditioners)
        self.audio_input_prompt = AudioInputPrompt(conditioners)
        self.to_global_embed = two_layer(sizes.cond_width, sizes.width, bias=False)
        names = ("first", "turns", "second")
        for name, table in zip(names, fourier_tables(conditioners.n_fft), strict=True):
            self.register_buffer(f"fourier_{name}", table, persistent=False)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """[1, samples] → [1, bands, frames], as `AudioInputPrompt.log_mel` by a spelled-out FFT."""
        mel = self.audio_input_prompt
        padded = F.pad(waveform[:, None], (mel.n_fft // 2, mel.n_fft // 2), mode="reflect")[0, 0]
        framed = frames_of(padded, count=mel.frames, size=mel.n_fft, hop=mel.hop)
        tables = self.fourier_first, self.fourier_turns, self.fourier_second
        re, im = rfft((framed * mel.window).double(), tables)
        magnitude = (re * re + im * im).sqrt().float()
        return (magnitude @ mel.filterbank).T[None].clamp(min=1e-5).log()

    def forward(self, waveform: Tensor, mel_keep: Tensor, sync: Tensor) -> Tensor:
        """Waveform [1,441000], mel_keep [1,1723] bool, sync [1,240,768] → prepend [1,N,D]."""
        log_mel = self.log_mel(waveform)
        log_mel = torch.where(mel_keep[:, None], log_mel, 0.0)
        tokens = [self.sync_feature(sync), self.audio_input_prompt.project(log_mel)]
        return self.to_global_embed(torch.cat(tokens, dim=1))


class Transcript(nn.Module):
    """Character ids [1, T] before the +1 shift, filled with −1 → tokens [1, 256, 768]."""

    def __init__(self, conditioners: ConditionerSizes) -> None:
        super().__init__()
        self.speech_prompt = SpeechPrompt(conditioners)

    def forward(self, ids: Tensor) -> Tensor:
        return self.speech_prompt.embed(ids)


def plain_convolutions(module: nn.Module) -> None:
    """Replace weight-normed convolutions in place by plain ones of the same name and form."""
    for name, child in module.named_children():
        if isinstance(child, (Conv, ConvTranspose)):
            setattr(module, name, child.plain())
        else:
            plain_convolutions(child)


class VaeDecoder(nn.Module):
    """Latents [B, C, L] → waveform [B, 2, L·ratio], not normalised."""

    def __init__(self, vae: Oobleck) -> None:
        super().__init__()
        self.vae = vae
        plain_convolutions(vae.decoder)
        del vae.encoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents)


class VaeEncoder(nn.Module):
    """Waveform [B, 2, samples] → mean and standard deviation [B, C, L]."""

    def __init__(self, vae: Oobleck) -> None:
        super().__init__()
        self.vae = vae
        plain_convolutions(vae.encoder)
        del vae.decoder

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        return self.vae.encode(waveform)
