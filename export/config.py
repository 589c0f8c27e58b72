"""The upstream model configuration (JSON), parsed once into typed, checked values.

Only keys with an effect on the arithmetic are read (spec UPSTREAM §13); a value that would change
the arithmetic in a way this exporter does not know is refused, never ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from omni_rt.errors import ExportError

_MOST_BLOCKS = 256  # seven times the official model's
CONDITIONER_IDS = ("omni_prompt", "sync_feature", "speech_prompt", "audio_input_prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class OobleckConfig:
    """One half of the autoencoder (spec UPSTREAM §6)."""

    audio_channels: int
    channels: int
    c_mults: tuple[int, ...]
    strides: tuple[int, ...]
    latent_dim: int  # the encoder's is twice the latent channels: mean and raw scale
    final_tanh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Everything the configuration file decides; the tensors' shapes decide the rest."""

    sample_rate_hz: int
    sample_size: int
    encoder: OobleckConfig
    decoder: OobleckConfig
    latent_scale: float
    latent_channels: int
    width: int
    depth: int
    heads: int
    context_tokens: int  # `pad_length`: longer thinker states are interpolated to this
    thinker_layer: int  # `layer_idx`: which hidden state conditions the model, from the end
    transcript_ids: int  # `seq_len` of the speech prompt
    transcript_tokens: int
    mel_tokens: int
    mel_bands: int
    n_fft: int
    hop_samples: int
    mel_rate_hz: int

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= _MOST_BLOCKS:
            raise ExportError(f"config: depth must be 1 to {_MOST_BLOCKS}, got {self.depth}")

    @property
    def downsampling_ratio(self) -> int:
        """Samples per latent frame."""
        return prod(self.decoder.strides)

    @property
    def latent_frames(self) -> int:
        """L: frames of one window (spec UPSTREAM §1)."""
        return self.sample_size // self.downsampling_ratio


class _Node:
    """A JSON object that knows its place, so that an error can name it."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ExportError(f"config: {where or 'the file'} must be an object, got {value!r:.60}")
        self.value, self.where = value, where

    def __truediv__(self, key: str) -> _Node:
        return _Node(self.get(key, dict), f"{self.where}.{key}".lstrip("."))

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        value = self.value.get(key, default)
        where = f"{self.where}.{key}".lstrip(".")
        if value is None:
            raise ExportError(f"config: {where} is missing")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ExportError(f"config: {where} must be {kind.__name__}, got {value!r:.60}")
        return value

    def positive(self, key: str, default: int | None = None) -> int:
        value: int = self.get(key, int, default)
        if value <= 0:
            raise ExportError(f"config: {self.where}.{key} must be positive, got {value}")
        return value

    def positives(self, key: str) -> tuple[int, ...]:
        values = self.get(key, list)
        if not values or not all(type(v) is int and v > 0 for v in values):
            raise ExportError(
                f"config: {self.where}.{key} must list positive integers, got {values}"
            )
        return tuple(values)

    def expect(self, key: str, wanted: object, *, default: Any = None) -> None:
        value = self.value.get(key, default)
        if value != wanted:
            raise ExportError(
                f"config: {self.where}.{key} must be {wanted!r}, got {value!r}: not supported"
            )


def read_config(path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The typed configuration and the raw JSON (stored in the bundle) of the file at `path`.

    Raises ExportError if the file is missing, is not JSON, or says something unsupported.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"config: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ExportError(f"config: {path} is not JSON: {error}") from error
    return parse_config(raw), raw


def parse_config(raw: Any) -> ModelConfig:
    """Check and type one upstream configuration. Raises ExportError naming the key."""
    root = _Node(raw, "")
    root.expect("model_type", "diffusion_cond")
    model = root / "model"
    vae = model / "pretransform" / "config"
    (model / "pretransform").expect("type", "autoencoder")
    (vae / "bottleneck").expect("type", "vae")
    dit = model / "diffusion" / "config"
    _check_diffusion(model / "diffusion")
    omni, _, speech, mel = _conditioners(model / "conditioning")
    encoder = _oobleck(vae / "encoder", "in_channels")
    decoder = _oobleck(vae / "decoder", "out_channels")
    config = ModelConfig(
        sample_rate_hz=root.positive("sample_rate"),
        sample_size=root.positive("sample_size"),
        encoder=encoder,
        decoder=decoder,
        latent_scale=_scale((model / "pretransform").value.get("scale", 1.0)),
        latent_channels=dit.positive("io_channels"),
        width=dit.positive("embed_dim"),
        depth=dit.positive("depth"),
        heads=dit.positive("num_heads"),
        context_tokens=omni.positive("pad_length"),
        thinker_layer=omni.get("layer_idx", int, -2),
        transcript_ids=speech.positive("seq_len"),
        transcript_tokens=speech.positive("proj_seq_len"),
        mel_tokens=mel.positive("seq_len"),
        mel_bands=mel.positive("n_mel_channels"),
        n_fft=mel.positive("n_fft"),
        hop_samples=mel.positive("hop_length"),
        mel_rate_hz=mel.positive("target_sample_rate"),
    )
    _check_sizes(config, vae)
    mel.expect("win_length", config.n_fft)
    return config


def _check_diffusion(diffusion: _Node) -> None:
    diffusion.expect("type", "dit")
    diffusion.expect("diffusion_objective", "rectified_flow")
    diffusion.expect("high_level_cond_ids", ["omni_prompt", "speech_prompt"])
    diffusion.expect("low_level_cond_ids", ["sync_feature", "audio_input_prompt"])
    dit = diffusion / "config"
    dit.expect("project_cond_tokens", True, default=True)
    dit.expect("transformer_type", "continuous_transformer", default="continuous_transformer")


def _conditioners(conditioning: _Node) -> list[_Node]:
    by_id: dict[str, _Node] = {}
    for i, entry in enumerate(conditioning.get("configs", list)):
        node = _Node(entry, f"{conditioning.where}.configs[{i}]")
        by_id[node.get("id", str)] = node / "config"
    if set(by_id) != set(CONDITIONER_IDS):
        raise ExportError(
            f"config: conditioners must be {sorted(CONDITIONER_IDS)}, got {sorted(by_id)}"
        )
    return [by_id[name] for name in CONDITIONER_IDS]


def _scale(value: object) -> float:
    if type(value) not in (int, float) or not 0 < value < 1e6:  # type: ignore[operator]
        raise ExportError(f"config: model.pretransform.scale must be positive, got {value!r:.60}")
    return float(value)  # type: ignore[arg-type]


def _oobleck(node: _Node, audio_channels_key: str) -> OobleckConfig:
    node.expect("type", "oobleck")
    config = node / "config"
    config.expect("use_snake", True)
    half = OobleckConfig(
        audio_channels=config.positive(audio_channels_key),
        channels=config.positive("channels"),
        c_mults=config.positives("c_mults"),
        strides=config.positives("strides"),
        latent_dim=config.positive("latent_dim"),
        final_tanh=config.get("final_tanh", bool, audio_channels_key == "out_channels"),
    )
    if len(half.c_mults) != len(half.strides):
        raise ExportError(
            f"config: {config.where} has {len(half.c_mults)} c_mults "
            f"but {len(half.strides)} strides"
        )
    return half


def _check_sizes(config: ModelConfig, vae: _Node) -> None:
    ratio = vae.positive("downsampling_ratio")
    channels = config.latent_channels
    problems = []
    if not ratio == config.downsampling_ratio == prod(config.encoder.strides):
        problems.append(f"downsampling_ratio {ratio} is not the product of the strides")
    if config.decoder.latent_dim != channels or config.encoder.latent_dim != 2 * channels:
        problems.append(f"the autoencoder's latent_dim must be {2 * channels} and {channels}")
    if config.width % config.heads:
        problems.append(f"embed_dim {config.width} is no multiple of num_heads {config.heads}")
    elif config.width // config.heads < 32:
        problems.append("heads narrower than 32 have no rotary embedding in this model")
    if config.mel_rate_hz != config.sample_rate_hz:
        problems.append(
            f"target_sample_rate {config.mel_rate_hz} is not sample_rate {config.sample_rate_hz}"
        )
    if config.latent_frames < 1:
        problems.append(f"sample_size {config.sample_size} is less than one latent frame ({ratio})")
    if config.thinker_layer >= -1:
        problems.append(f"layer_idx must be -2 or less, got {config.thinker_layer}")
    if problems:
        raise ExportError("config: " + "; ".join(problems))
