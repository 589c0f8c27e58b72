"""The thinker's tensors, checked by name and shape, and the reference modules filled with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from omni_rt.export.checkpoint import (
    LazyTensor,
    check_names_and_shapes,
    load_into,
    parameters_on_meta,
)
from omni_rt.export.reference.thinker import Thinker, kept_layers
from omni_rt.export.reference.thinker_config import ThinkerSizes
from omni_rt.export.reference.thinker_towers import AudioTower, VisionTower

AUDIO, VISION = "audio_tower.", "visual."
_PATCHES = VISION + "patch_embed.proj.weight"
_NEVER_USED = AUDIO + "audio_bos_eos_token.weight"
_TO_SPEAK = ("model.norm.weight", "lm_head.weight")

Shapes = dict[str, tuple[int, ...]]


def thinker_shapes(sizes: ThinkerSizes) -> Shapes:
    """Every tensor of a thinker, in the layout of transformers 5.3 (spec THINKER §1)."""
    with parameters_on_meta():
        text = Thinker(sizes, kept=sizes.layers, speaks=True)
        audio, vision = AudioTower(sizes.audio), VisionTower(sizes.vision)
    shapes = {
        **_shapes_of(text, ""),
        **_shapes_of(audio, AUDIO),
        **_shapes_of(vision, VISION),
        _NEVER_USED: (2, sizes.audio.output_width),
    }
    eye = sizes.vision
    shapes[_PATCHES] = (eye.width, 3, eye.temporal_patch, eye.patch_px, eye.patch_px)
    return shapes


def _shapes_of(module: nn.Module, prefix: str) -> Shapes:
    return {prefix + name: tuple(value.shape) for name, value in module.state_dict().items()}


def check_thinker(
    sizes: ThinkerSizes,
    layer_index: int,
    tensors: Mapping[str, LazyTensor],
    stages: Collection[str] = ("thinker_embed", "thinker_cond"),
) -> dict[str, LazyTensor]:
    """The tensors that these stages need, checked; all decoder layers must be there and no more.

    Raises ExportError that lists every difference.
    """
    kept_layers(sizes, layer_index)
    left_out = [
        part
        for part, stage in ((AUDIO, "audio_tower"), (VISION, "vision_tower"))
        if stage not in stages
    ]
    left_out += [] if "thinker_lm" in stages else list(_TO_SPEAK)
    left_out.append(_NEVER_USED)
    if sizes.tied:
        left_out.append("lm_head.weight")

    def needed(name: str) -> bool:
        return not name.startswith(tuple(left_out))

    wanted = {name: shape for name, shape in thinker_shapes(sizes).items() if needed(name)}
    found = {name: tensor for name, tensor in tensors.items() if needed(name)}
    check_names_and_shapes(found, wanted, what="thinker")
    if sizes.tied:
        found["lm_head.weight"] = found["model.embed_tokens.weight"]
    return found


def load_thinker(
    sizes: ThinkerSizes,
    layer_index: int,
    tensors: Mapping[str, LazyTensor],
    *,
    speaks: bool = False,
) -> Thinker:
    """The part of the thinker that conditions, or with `speaks` all of it; fp32, no gradients."""
    kept = sizes.layers if speaks else kept_layers(sizes, layer_index)
    with parameters_on_meta():
        thinker = Thinker(sizes, kept=kept, speaks=speaks)
    load_into(thinker, tensors)
    return thinker.eval().requires_grad_(False)


def load_audio_tower(sizes: ThinkerSizes, tensors: Mapping[str, LazyTensor]) -> AudioTower:
    """The thinker's audio encoder in fp32, no gradients."""
    with parameters_on_meta():
        tower = AudioTower(sizes.audio)
    load_into(tower, _below(AUDIO, tensors))
    return tower.eval().requires_grad_(False)


def load_vision_tower(sizes: ThinkerSizes, tensors: Mapping[str, LazyTensor]) -> VisionTower:
    """The thinker's vision encoder in fp32, no gradients."""
    with parameters_on_meta():
        tower = VisionTower(sizes.vision)
    own = _below(VISION, tensors)
    name = _PATCHES.removeprefix(VISION)
    own[name] = own[name].reshaped(tower.patch_embed.proj.weight.shape)
    load_into(tower, own)
    return tower.eval().requires_grad_(False)


def _below(prefix: str, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
