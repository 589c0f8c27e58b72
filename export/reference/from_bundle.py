"""A bundle's graphs → torch modules: stage by stage, or the whole reference model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from omni_rt.bundle import Bundle
from omni_rt.contract import SYNC_SEGMENT_FRAMES
from omni_rt.errors import BundleError
from omni_rt.export.checkpoint import LazyTensor
from omni_rt.export.config import parse_config
from omni_rt.export.contract import MODEL_STAGES, SYNCHFORMER
from omni_rt.export.graphs import Stage
from omni_rt.export.reference.model import (
    CONDITIONERS,
    AudioOmni,
    load_reference,
    parameter_shapes,
    sizes_from,
)
from omni_rt.export.reference.synchformer import COLOURS, VISUAL, SynchformerSizes
from omni_rt.export.reference.thinker_config import ThinkerSizes
from omni_rt.export.stage_weights import FUSED
from omni_rt.export.tracing import StageSizes

_FLOATS = (ir.DataType.FLOAT, ir.DataType.BFLOAT16, ir.DataType.FLOAT16)


Change = Callable[[str, Tensor], Tensor]  # a weight's official name and value → its new value


def _as_it_is(_: str, value: Tensor) -> Tensor:
    return value


def bundle_weights(bundle: Bundle) -> dict[str, LazyTensor]:
    """Every weight of the model's stages by the reference's name, in its layout."""
    weights: dict[str, LazyTensor] = {}
    for stage in MODEL_STAGES:
        if stage in bundle.manifest.graphs:
            weights |= stage_tensors(bundle, stage)
    empty = torch.from_numpy(bundle.empty_transcript)
    weights[CONDITIONERS + "speech_prompt.empty_speech_feat"] = _lazy(empty)
    return weights


def stage_tensors(bundle: Bundle, stage: str) -> dict[str, LazyTensor]:
    """Every weight of one unrounded graph by the reference's name, in its layout, on demand.

    Matrices of a MatMul are stored transposed and its biases [1,1,N]; the former is undone here.
    """
    graph = ir.load(bundle.graph_file(stage)).graph
    found = {}
    for name, value in graph.initializers.items():
        if value.const_value is not None and value.const_value.dtype in _FLOATS:
            in_matmul = any(node.op_type == "MatMul" and i == 1 for node, i in _users(value))
            shape = tuple(value.const_value.shape.numpy())
            found[name] = LazyTensor(
                shape=shape[::-1] if in_matmul else shape,
                dtype="float32",
                load=partial(_as_torch, value.const_value, transposed=in_matmul),
            )
    return found


def _as_torch(stored: ir.TensorProtocol, *, transposed: bool) -> Tensor:
    array = stored.numpy()
    wide = np.float32 if array.dtype.itemsize == 2 else array.dtype
    tensor = torch.from_numpy(array.astype(wide))
    return tensor.T if transposed else tensor


def _users(weight: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Who reads a weight, through the Cast behind one that is stored in 16 bits."""
    for node, i in weight.uses():
        if node.op_type == "Cast":
            yield from node.outputs[0].uses()
        else:
            yield node, i


def sizes_of(bundle: Bundle) -> StageSizes:
    """What the modules of a bundle's stages are built from.

    Raises BundleError if a stage of the model is missing: sizes are read from all of them.
    """
    missing = [name for name in MODEL_STAGES if name not in bundle.manifest.graphs]
    if missing:
        raise BundleError(f"cannot rebuild the reference: the bundle lacks {', '.join(missing)}")
    provenance = bundle.manifest.provenance
    thinker, synchformer = provenance["thinker_config"], provenance["synchformer"]
    has_synchformer = SYNCHFORMER in bundle.manifest.graphs
    return StageSizes(
        model=sizes_from(parse_config(provenance["config"]), bundle_weights(bundle)),
        thinker=None if thinker is None else ThinkerSizes.from_config(thinker),
        synchformer=_synchformer_sizes(bundle, synchformer["heads"]) if has_synchformer else None,
    )


def _synchformer_sizes(bundle: Bundle, heads: int) -> SynchformerSizes:
    tensors = stage_tensors(bundle, SYNCHFORMER)
    patch = VISUAL + "patch_embed_3d.proj.weight"  # a matrix here, a convolution's kernel there
    width, pixels = tensors[patch].shape
    tubelet_frames = SYNC_SEGMENT_FRAMES // tensors[VISUAL + "temp_embed"].shape[1]
    side = math.isqrt(pixels // (COLOURS * tubelet_frames))
    kernel = tensors[patch].reshaped((width, COLOURS, tubelet_frames, side, side))
    return SynchformerSizes.from_tensors({**tensors, patch: kernel}, heads=heads)


def stage_of(bundle: Bundle, name: str, sizes: StageSizes, *, changed: Change = _as_it_is) -> Stage:
    """A stage of a bundle as a torch module with the graph's weights, in fp32.

    changed(name, value) may replace a weight. Parameters that the graph has no use for (the empty
    transcript's) are zero. Raises BundleError for a stage that was rounded.
    """
    if bundle.graph(name).precision != "fp32":
        raise BundleError(f"{name} was rounded: only the bundle it was made from has its weights")
    stage, tensors = sizes.stage(name), stage_tensors(bundle, name)
    state = {}
    for key, value in stage.module.state_dict().items():
        official, shape = stage.official_name(key), tuple(value.shape)
        found = tensors.get(official)
        state[key] = (
            torch.zeros(shape)
            if found is None
            else changed(official, found.float32()).reshape(shape)
        )
    stage.module.load_state_dict(state, strict=True, assign=True)
    return stage


def from_bundle(bundle: Bundle) -> AudioOmni:
    """The reference model of a bundle with all the model's stages.

    The one parameter no stage needs (the audio prompt's empty feature, never used) is zero.
    Raises BundleError if a stage is missing.
    """
    sizes, weights = sizes_of(bundle).model, bundle_weights(bundle)
    official = {
        name: _official(name, shape, weights) for name, shape in parameter_shapes(sizes).items()
    }
    absent = [name for name, value in official.items() if value is None]
    if absent:
        raise BundleError(f"cannot rebuild the reference: in no graph: {', '.join(absent)}")
    return load_reference(sizes, {k: _lazy(v) for k, v in official.items() if v is not None})


def _official(
    name: str, shape: tuple[int, ...], weights: Mapping[str, LazyTensor]
) -> Tensor | None:
    """A parameter of the reference from what the graphs hold of it, or None."""
    if name in weights:
        value = weights[name].float32()
        return value.reshape(shape) if len(shape) == 1 else value
    stem, _, leaf = name.rpartition(".")
    parent, _, fused = stem.rpartition(".")
    if fused in FUSED:
        parts = [weights.get(f"{parent}.{part}.weight") for part in FUSED[fused]]
        found = [p.float32() for p in parts if p is not None]
        return torch.cat(found) if len(found) == len(parts) else None
    plain = weights.get(f"{stem}.weight")
    if leaf in ("weight_v", "weight_g") and plain is not None:
        value = plain.float32()
        return value if leaf == "weight_v" else value.flatten(1).norm(dim=1).reshape(shape)
    return torch.zeros(shape) if leaf == "empty_audio_feat" else None


def _same(value: Tensor) -> Tensor:
    return value


def _lazy(value: Tensor) -> LazyTensor:
    return LazyTensor(shape=tuple(value.shape), dtype="float32", load=partial(_same, value))
