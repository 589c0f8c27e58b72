"""The miniature's modules before training: sizes, and weights that begin well."""

from __future__ import annotations

import torch
from torch import nn

from omni_rt.export.config import parse_config
from omni_rt.export.miniature.config import (
    COND_WIDTH,
    HIDDEN_WIDTH,
    MEL_FRAMES,
    SYNC_ROWS,
    SYNC_TOKENS,
    SYNC_WIDTH,
    miniature_config,
)
from omni_rt.export.miniature.data.speech import TRANSCRIPT_CHARACTERS
from omni_rt.export.random_checkpoint import sizes_for
from omni_rt.export.reference.dit import LayerNorm, RotaryAngles
from omni_rt.export.reference.model import AudioOmni, ModelSizes
from omni_rt.export.reference.synchformer import Synchformer, SynchformerSizes

SYNCHFORMER_HEADS = 1
_TIME_FEATURES = 32
_LOG_MEL_MEAN = -6.0  # about: half way from silence, ln 1e-5, to a loud band


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
    """A transformer whose velocity is 0 and whose blocks add little, with its conditioners.

    Without the autoencoder, which is trained before and on its own.
    """
    model = AudioOmni(miniature_sizes())
    del model.pretransform
    dit = model.dit
    for name, parameter in dit.named_parameters():
        if not _kept(dit, name):
            _random_or_zero(parameter)
    nn.init.normal_(dit.timestep_features.weight)
    for layer in dit.transformer.layers:
        for last in ("self_attn.to_out", "cross_attn.to_out", "ff.ff.2"):
            layer.get_parameter(f"{last}.weight").data.mul_(0.2)
    for silent in (dit.transformer.project_out, dit.preprocess_conv, dit.postprocess_conv):
        nn.init.zeros_(silent.weight)
    nn.init.normal_(model.speech_prompt.empty_speech_feat)
    mel = model.audio_input_prompt
    nn.init.eye_(mel.proj_sequence_features.weight)
    nn.init.constant_(mel.proj_sequence_features.bias, -_LOG_MEL_MEAN)
    sync = model.sync_feature.dim_project
    with torch.no_grad():  # each token is the mean of its share of the rows
        share = SYNC_ROWS // SYNC_TOKENS
        sync.weight.copy_(torch.eye(SYNC_TOKENS).repeat_interleave(share, dim=1) / share)
        sync.bias.zero_()
    return model


def _kept(module: nn.Module, name: str) -> bool:
    parent = module.get_submodule(name.rpartition(".")[0])
    return isinstance(parent, LayerNorm | RotaryAngles)


def _random_or_zero(parameter: nn.Parameter) -> None:
    if parameter.dim() > 1:
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    else:
        nn.init.zeros_(parameter)
