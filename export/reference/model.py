"""The whole reference model under the official names, built from a checkpoint's shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from omni_rt.errors import ExportError
from omni_rt.export.checkpoint import (
    LazyTensor,
    check_names_and_shapes,
    load_into,
    parameters_on_meta,
)
from omni_rt.export.config import ModelConfig
from omni_rt.export.reference.autoencoder import Oobleck
from omni_rt.export.reference.conditioners import (
    AudioInputPrompt,
    ConditionerSizes,
    OmniPrompt,
    SpeechPrompt,
    SyncFeature,
)
from omni_rt.export.reference.dit import DiT, DitSizes

DIT = "model.model."
CONDITIONERS = "conditioner.conditioners."
AUTOENCODER = "pretransform.model."

_Module = TypeVar("_Module", bound=nn.Module)

# A projection the original may store and never applies (spec UPSTREAM §2).
_NEVER_APPLIED = re.compile(r"conditioner\.conditioners\.\w+\.proj_out\.(weight|bias)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """Sizes of all parts: the configuration's where it decides, the tensors' elsewhere."""

    config: ModelConfig
    dit: DitSizes
    conditioners: ConditionerSizes


class AudioOmni(nn.Module):
    """`state_dict()` has exactly the official names (without the thinker's)."""

    def __init__(self, sizes: ModelSizes) -> None:
        super().__init__()
        conditioners: dict[str, nn.Module] = {
            "omni_prompt": OmniPrompt(sizes.conditioners),
            "sync_feature": SyncFeature(sizes.conditioners),
            "speech_prompt": SpeechPrompt(sizes.conditioners),
            "audio_input_prompt": AudioInputPrompt(sizes.conditioners),
        }
        config = sizes.config
        vae = Oobleck(config.encoder, config.decoder, scale=config.latent_scale)
        self.sizes = sizes
        self.model = nn.ModuleDict({"model": DiT(sizes.dit)})
        self.conditioner = nn.ModuleDict({"conditioners": nn.ModuleDict(conditioners)})
        self.pretransform = nn.ModuleDict({"model": vae})

    @property
    def dit(self) -> DiT:
        return _part(self, DIT, DiT)

    @property
    def omni_prompt(self) -> OmniPrompt:
        return _part(self, CONDITIONERS + "omni_prompt.", OmniPrompt)

    @property
    def sync_feature(self) -> SyncFeature:
        return _part(self, CONDITIONERS + "sync_feature.", SyncFeature)

    @property
    def speech_prompt(self) -> SpeechPrompt:
        return _part(self, CONDITIONERS + "speech_prompt.", SpeechPrompt)

    @property
    def audio_input_prompt(self) -> AudioInputPrompt:
        return _part(self, CONDITIONERS + "audio_input_prompt.", AudioInputPrompt)

    @property
    def autoencoder(self) -> Oobleck:
        return _part(self, AUTOENCODER, Oobleck)


def _part(model: nn.Module, prefix: str, kind: type[_Module]) -> _Module:
    part = model.get_submodule(prefix.rstrip("."))
    assert isinstance(part, kind)
    return part


def sizes_from(config: ModelConfig, tensors: Mapping[str, LazyTensor]) -> ModelSizes:
    """Read the sizes that the configuration leaves to the tensors.

    Raises ExportError naming every tensor that is needed for it and is not there.
    """
    shape = _Shapes(tensors)
    omni = shape(CONDITIONERS + "omni_prompt.proj_features.weight", 2)
    sync = shape(CONDITIONERS + "sync_feature.dim_project.weight", 2)
    speech = CONDITIONERS + "speech_prompt.text_embed."
    characters = shape(speech + "text_embed.weight", 2)
    mel = shape(CONDITIONERS + "audio_input_prompt.proj_sequence_features.weight", 2)
    fourier = shape(DIT + "timestep_features.weight", 2)
    sync_width = shape(CONDITIONERS + "sync_feature.norm.weight", 1)[0]
    shape.raise_missing()
    dit = DitSizes(
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        latent_channels=config.latent_channels,
        cond_width=omni[0],
        time_features=fourier[0],
    )
    blocks = {key.split(".")[5] for key in tensors if key.startswith(speech + "text_blocks.")}
    conditioners = ConditionerSizes(
        cond_width=omni[0],
        hidden_width=omni[1],
        context_tokens=config.context_tokens,
        sync_width=sync_width,
        sync_rows=sync[1],
        sync_tokens=sync[0],
        vocabulary=characters[0],
        text_width=characters[1],
        text_blocks=len(blocks),
        transcript_ids=config.transcript_ids,
        transcript_tokens=config.transcript_tokens,
        mel_bands=config.mel_bands,
        mel_frames=mel[1],
        mel_tokens=config.mel_tokens,
        n_fft=config.n_fft,
        hop_samples=config.hop_samples,
        mel_rate_hz=config.mel_rate_hz,
    )
    return ModelSizes(config=config, dit=dit, conditioners=conditioners)


class _Shapes:
    """Shapes by name; remembers what is missing so that one error can list it all."""

    def __init__(self, tensors: Mapping[str, LazyTensor]) -> None:
        self.tensors, self.problems = tensors, list[str]()

    def __call__(self, name: str, rank: int) -> tuple[int, ...]:
        found = self.tensors.get(name)
        if found is None:
            self.problems.append(f"missing {name}")
        elif len(found.shape) != rank or 0 in found.shape:
            self.problems.append(f"{name} has shape {list(found.shape)}, expected {rank} axes")
        else:
            return found.shape
        return (1,) * rank

    def raise_missing(self) -> None:
        if self.problems:
            raise ExportError("checkpoint: not in the official format: " + "; ".join(self.problems))


def parameter_shapes(sizes: ModelSizes) -> dict[str, tuple[int, ...]]:
    """Every official name with the shape that these sizes imply."""
    with parameters_on_meta():
        model = AudioOmni(sizes)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def checked_tensors(
    config: ModelConfig, tensors: Mapping[str, LazyTensor]
) -> tuple[ModelSizes, dict[str, LazyTensor]]:
    """Sizes and exactly the tensors of the official format, checked by name and shape."""
    used = {k: v for k, v in tensors.items() if not _NEVER_APPLIED.fullmatch(k)}
    sizes = sizes_from(config, used)
    check_names_and_shapes(used, parameter_shapes(sizes), what="checkpoint")
    return sizes, used


def load_reference(sizes: ModelSizes, tensors: Mapping[str, LazyTensor]) -> AudioOmni:
    """The whole model in fp32, in evaluation mode, gradients off."""
    with parameters_on_meta():
        model = AudioOmni(sizes)
    load_into(model, tensors)
    return model.eval().requires_grad_(False)
