"""The miniature's modules before training: sizes, and weights that begin well."""

from __future__ import annotations

import torch
from torch import nn

from omni_rt.contract import SYNC_SEGMENT_FRAMES, sync_starts
from omni_rt.export.config import parse_config
from omni_rt.export.miniature.config import (
    COND_WIDTH,
    DOWNSAMPLING,
    HIDDEN_WIDTH,
    LATENTS,
    MEL_FRAMES,
    SYNC_ROWS,
    SYNC_TOKENS,
    SYNC_WIDTH,
    miniature_config,
)
from omni_rt.export.miniature.data import RATE_HZ, video
from omni_rt.export.miniature.data.speech import TRANSCRIPT_CHARACTERS
from omni_rt.export.miniature.in_step import attend_in_step
from omni_rt.export.random_checkpoint import sizes_for
from omni_rt.export.reference.conditioners import SpeechPrompt, SyncFeature
from omni_rt.export.reference.dit import LayerNorm, RotaryAngles, Transformer
from omni_rt.export.reference.model import AudioOmni, ModelSizes
from omni_rt.export.reference.synchformer import Synchformer, SynchformerSizes

SYNCHFORMER_HEADS = 1
_TIME_FEATURES = 32
_LOG_MEL_MEAN = -6.0  # about: half way from silence, ln 1e-5, to a loud band
_NOISE_SHARE = 0.3  # RMS at which latents enter the residual stream, where all else has about 1
_LEAK = 0.02  # of what blocks first write to where the velocity is read
_SEEN_S = 0.1  # how far from its moment a token sees at first
_RAMP = 3.0  # beside rows of RMS about 1: 32 moments have to be told apart


def miniature_sizes() -> ModelSizes:
    """Sizes of all parts but the thinker and the Synchformer."""
    return sizes_for(
        parse_config(miniature_config()),
        cond_width=COND_WIDTH,
        hidden_width=HIDDEN_WIDTH,
        sync_width=SYNC_WIDTH,
        sync_rows=SYNC_ROWS,
        sync_tokens=SYNC_TOKENS,
        vocabulary=len(TRANSCRIPT_CHARACTERS) + 1,
        text_width=64,
        text_blocks=2,
        mel_frames=MEL_FRAMES,
        time_features=_TIME_FEATURES,
    )


def synchformer_sizes() -> SynchformerSizes:
    """One block over the official frames: it has to see light and colour in time."""
    return SynchformerSizes(
        width=SYNC_WIDTH,
        heads=SYNCHFORMER_HEADS,
        depth=1,
        inner=64,
        tubelets=8,
        patches=196,
        patch_px=16,
        tubelet_frames=2,
    )


def new_synchformer() -> Synchformer:
    """Small random weights; norms as they come."""
    model = Synchformer(synchformer_sizes())
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            _random_or_zero(parameter)
    return model


def new_model() -> AudioOmni:
    """A transformer whose velocity is x, with its conditioners.

    At t = 1 that is the noise of the answer noise − latents: only the latents are left to learn.
    Latents take half the residual stream's dimensions. Blocks first write to the other half, and
    louder, so that captions and times are heard beside the noise.

    Without the autoencoder, which is trained before and on its own.
    """
    model = AudioOmni(miniature_sizes())
    del model.pretransform
    dit = model.dit
    for name, parameter in dit.named_parameters():
        if not _kept(dit, name):
            _random_or_zero(parameter)
    nn.init.normal_(dit.timestep_features.weight)
    _pass_through(dit.transformer)
    for silent in (dit.preprocess_conv, dit.postprocess_conv):
        nn.init.zeros_(silent.weight)
    with torch.no_grad():
        for layer, gain in ((0, 1.4), (2, 2.0)):
            dit.to_cond_embed.get_parameter(f"{layer}.weight").mul_(gain)
    words = model.omni_prompt.proj_features
    nn.init.normal_(words.weight, std=words.in_features**-0.5)
    nn.init.zeros_(words.bias)
    _read_in_order(model.speech_prompt)
    mel = model.audio_input_prompt
    nn.init.eye_(mel.proj_sequence_features.weight)
    nn.init.constant_(mel.proj_sequence_features.bias, -_LOG_MEL_MEAN)
    _see_in_step(model.sync_feature)
    attend_in_step(dit.transformer, (2 * LATENTS, LATENTS))
    return model


@torch.no_grad()
def _see_in_step(sync: SyncFeature) -> None:
    """Each token begins as the rows around its latent's moment, and says which moment that is.

    Latents have no position: it has to come from tokens that differ.
    """
    rows_s = torch.cat(
        [
            (start + torch.arange(1, SYNC_SEGMENT_FRAMES, 2)) / video.FPS
            for start in sync_starts(video.FRAMES)
        ]
    )
    latents_s = (torch.arange(LATENTS) + 0.5) * DOWNSAMPLING / RATE_HZ
    near = (1 - (latents_s[:, None] - rows_s).abs() / _SEEN_S).clamp(min=1e-3)
    sync.dim_project.weight.copy_(near / near.sum(dim=1, keepdim=True))
    sync.dim_project.bias.copy_(torch.linspace(-_RAMP, _RAMP, LATENTS))


def _read_in_order(speech: SpeechPrompt) -> None:
    """Each token begins as a character of its own: mixed, their order takes long to be found.

    No transcript of ours has more characters than there are tokens.
    """
    assert speech.proj_seq_len is not None
    nn.init.eye_(speech.proj_seq_len.weight)
    nn.init.zeros_(speech.proj_seq_len.bias)
    nn.init.zeros_(speech.empty_speech_feat)


@torch.no_grad()
def _pass_through(transformer: Transformer) -> None:
    first, last = transformer.project_in.weight, transformer.project_out.weight
    nn.init.orthogonal_(first)
    last.copy_(first.T / _NOISE_SHARE)
    for layer in transformer.layers:
        for name in ("self_attn.to_out", "cross_attn.to_out", "ff.ff.2"):
            weight = layer.get_parameter(f"{name}.weight")
            weight.sub_((1 - _LEAK) * first @ (first.T @ weight))
    first.mul_(_NOISE_SHARE)


def _kept(module: nn.Module, name: str) -> bool:
    parent = module.get_submodule(name.rpartition(".")[0])
    return isinstance(parent, LayerNorm | RotaryAngles)


def _random_or_zero(parameter: nn.Parameter) -> None:
    if parameter.dim() > 1:
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    else:
        nn.init.zeros_(parameter)
