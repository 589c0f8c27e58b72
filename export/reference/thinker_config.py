"""`config.json` of the thinker → typed, checked sizes; nothing is hard-coded (spec THINKER §0)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omni_rt.errors import ExportError


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioTowerSizes:
    """The audio encoder: log-mel chunks → tokens."""

    mel_bands: int
    width: int
    layers: int
    heads: int
    inner: int
    half_window: int  # a chunk is twice this many mel frames
    output_width: int

    @property
    def chunk_frames(self) -> int:
        return 2 * self.half_window


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionTowerSizes:
    """The vision encoder: patches of a pair of frames → tokens."""

    width: int
    inner: int
    layers: int
    heads: int
    patch_px: int
    temporal_patch: int
    merge: int
    window_px: int
    full_attention: tuple[int, ...]  # blocks that see the whole grid
    output_width: int

    @property
    def patch_values(self) -> int:
        """Numbers in a patch: colours, frames, rows, columns."""
        return 3 * self.temporal_patch * self.patch_px**2


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkerSizes:
    """The text model of `config.json → thinker_config`, and its towers."""

    vocabulary: int
    width: int
    inner: int
    layers: int  # N, all of them
    heads: int
    kv_heads: int
    head_width: int
    eps: float
    rope_base: float
    rope_sections: tuple[int, ...]
    max_positions: int
    tied: bool  # the head is the embedding
    audio: AudioTowerSizes
    vision: VisionTowerSizes
    token_ids: Mapping[str, int]  # of the media tokens, by the manifest's names

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ThinkerSizes:
        """Read a Hugging Face configuration: the whole model's, or its thinker's.

        Raises ExportError naming the part that is missing or wrong.
        """
        thinker = config.get("thinker_config", config)
        text = _part(thinker, "text_config")
        try:
            rope = text.get("rope_parameters") or text["rope_scaling"]
            sizes = cls(
                vocabulary=text["vocab_size"],
                width=text["hidden_size"],
                inner=text["intermediate_size"],
                layers=text["num_hidden_layers"],
                heads=text["num_attention_heads"],
                kv_heads=text["num_key_value_heads"],
                head_width=text.get("head_dim", text["hidden_size"] // text["num_attention_heads"]),
                eps=text["rms_norm_eps"],
                rope_base=rope.get("rope_theta", text.get("rope_theta", 1e6)),
                rope_sections=tuple(rope["mrope_section"]),
                max_positions=text.get("max_position_embeddings", 32_768),
                tied=bool(thinker.get("tie_word_embeddings", text.get("tie_word_embeddings"))),
                audio=_audio_tower(_part(thinker, "audio_config")),
                vision=_vision_tower(_part(thinker, "vision_config")),
                token_ids=_token_ids(thinker),
            )
        except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
            raise ExportError(f"thinker: config.json's text_config is wrong: {error}") from error
        _check_counts(sizes, "text_config")
        if 2 * sum(sizes.rope_sections) != sizes.head_width:
            raise ExportError(
                f"thinker: mrope_section {sizes.rope_sections} must sum to half of "
                f"head_dim {sizes.head_width}"
            )
        if text.get("use_sliding_window"):
            raise ExportError("thinker: use_sliding_window is not supported")
        if sizes.heads % sizes.kv_heads:
            raise ExportError("thinker: num_attention_heads must be a multiple of the kv heads")
        widths = {sizes.width, sizes.audio.output_width, sizes.vision.output_width}
        if len(widths) != 1:
            raise ExportError(f"thinker: the towers' outputs must be {sizes.width} wide: {widths}")
        return sizes


def read_thinker_config(path: Path) -> dict[str, Any]:
    """A Hugging Face `config.json`, for `ThinkerSizes.from_config`. Raises ExportError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"thinker: cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise ExportError(f"thinker: {path} must hold an object")
    return config


def _part(thinker: object, name: str) -> Mapping[str, Any]:
    part = thinker.get(name) if isinstance(thinker, Mapping) else None
    if not isinstance(part, Mapping):
        raise ExportError(f"thinker: config.json has no thinker_config.{name}")
    return part


def _audio_tower(config: Mapping[str, Any]) -> AudioTowerSizes:
    try:
        sizes = AudioTowerSizes(
            mel_bands=config.get("num_mel_bins", 128),
            width=config["d_model"],
            layers=config["encoder_layers"],
            heads=config["encoder_attention_heads"],
            inner=config["encoder_ffn_dim"],
            half_window=config.get("n_window", 100),
            output_width=config["output_dim"],
        )
    except KeyError as error:
        raise ExportError(f"thinker: config.json's audio_config lacks {error}") from error
    _check_counts(sizes, "audio_config")
    _check_activation(config, "activation_function", "gelu", "audio_config")
    if sizes.width % sizes.heads or sizes.half_window % 2:
        raise ExportError("thinker: config.json's audio_config has sizes that do not divide")
    return sizes


def _vision_tower(config: Mapping[str, Any]) -> VisionTowerSizes:
    try:
        sizes = VisionTowerSizes(
            width=config["hidden_size"],
            inner=config["intermediate_size"],
            layers=config["depth"],
            heads=config["num_heads"],
            patch_px=config.get("patch_size", 14),
            temporal_patch=config.get("temporal_patch_size", 2),
            merge=config.get("spatial_merge_size", 2),
            window_px=config.get("window_size", 112),
            full_attention=tuple(config["fullatt_block_indexes"]),
            output_width=config["out_hidden_size"],
        )
    except KeyError as error:
        raise ExportError(f"thinker: config.json's vision_config lacks {error}") from error
    _check_counts(sizes, "vision_config")
    _check_activation(config, "hidden_act", "silu", "vision_config")
    channels = config.get("in_channels", config.get("in_chans", 3))
    if channels != 3:
        raise ExportError(f"thinker: vision_config takes {channels} colours, not 3")
    if sizes.width % (4 * sizes.heads) or sizes.window_px % (sizes.patch_px * sizes.merge):
        raise ExportError("thinker: config.json's vision_config has sizes that do not divide")
    return sizes


def _check_activation(config: Mapping[str, Any], key: str, wanted: str, where: str) -> None:
    if config.get(key, wanted) != wanted:
        raise ExportError(f"thinker: {where}.{key} must be {wanted!r}, got {config[key]!r}")


def _check_counts(sizes: Any, where: str) -> None:
    counts = {f.name: getattr(sizes, f.name) for f in fields(sizes) if f.type == "int"}
    wrong = {name: v for name, v in counts.items() if type(v) is not int or v <= 0}
    if wrong:
        raise ExportError(f"thinker: {where}: sizes must be positive integers: {wrong}")


# The manifest's names of the media tokens → the configuration's, and how they are written.
MEDIA_TOKENS: Mapping[str, tuple[str, str]] = {
    "audio": ("audio_token_index", "<|AUDIO|>"),
    "image": ("image_token_index", "<|IMAGE|>"),
    "video": ("video_token_index", "<|VIDEO|>"),
    "audio_bos": ("audio_start_token_id", "<|audio_bos|>"),
    "audio_eos": ("audio_end_token_id", "<|audio_eos|>"),
    "vision_bos": ("vision_start_token_id", "<|vision_bos|>"),
    "vision_eos": ("vision_end_token_id", "<|vision_eos|>"),
}


def _token_ids(thinker: Mapping[str, Any]) -> dict[str, int]:
    """Ids of the media tokens that the configuration gives (some leave a few out)."""
    found = {name: thinker.get(key) for name, (key, _) in MEDIA_TOKENS.items()}
    return {name: value for name, value in found.items() if isinstance(value, int)}
