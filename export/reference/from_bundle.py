"""A bundle's graphs → the torch reference that calibration observes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from omni_rt.bundle import Bundle
from omni_rt.errors import BundleError
from omni_rt.export.checkpoint import LazyTensor
from omni_rt.export.config import parse_config
from omni_rt.export.contract import MODEL_STAGES
from omni_rt.export.reference.model import (
    CONDITIONERS,
    AudioOmni,
    load_reference,
    parameter_shapes,
    sizes_from,
)
from omni_rt.export.stage_weights import FUSED


def bundle_weights(bundle: Bundle) -> dict[str, Tensor]:
    """Every weight of an fp32 bundle by the reference's name, in its layout, as fp32.

    Matrices of a MatMul are stored transposed and its biases [1,1,N]; both are undone here.
    """
    weights: dict[str, Tensor] = {}
    for stage in MODEL_STAGES:
        if stage in bundle.manifest.graphs:
            model = ir.load(bundle.path(bundle.graph(stage).path))
            weights |= _initialisers(model.graph)
    with np.load(bundle.path(bundle.manifest.constants), allow_pickle=False) as constants:
        empty = torch.from_numpy(constants["empty_transcript"])
    weights[CONDITIONERS + "speech_prompt.empty_speech_feat"] = empty
    return weights


def _initialisers(graph: ir.Graph) -> dict[str, Tensor]:
    found = {}
    for name, value in graph.initializers.items():
        if value.const_value is None:
            continue
        stored = value.const_value.numpy()
        wide = np.float32 if stored.dtype.itemsize == 2 else stored.dtype
        tensor = torch.from_numpy(stored.astype(wide))
        in_matmul = any(node.op_type == "MatMul" and i == 1 for node, i in _users(value))
        found[name] = tensor.T if in_matmul else tensor
    return found


def _users(weight: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Who reads a weight, through the Cast behind one that is stored in 16 bits."""
    for node, i in weight.uses():
        if node.op_type == "Cast":
            yield from node.outputs[0].uses()
        else:
            yield node, i


def from_bundle(bundle: Bundle) -> AudioOmni:
    """The reference model of a bundle with all the model's stages.

    The one parameter no stage needs (the audio prompt's empty feature, never used) is zero.
    Raises BundleError if a stage is missing.
    """
    missing = [name for name in MODEL_STAGES if name not in bundle.manifest.graphs]
    if missing:
        raise BundleError(f"cannot rebuild the reference: the bundle lacks {', '.join(missing)}")
    config = parse_config(bundle.manifest.provenance["config"])
    weights = bundle_weights(bundle)
    sizes = sizes_from(config, _lazy(weights))
    official = {
        name: _official(name, shape, weights) for name, shape in parameter_shapes(sizes).items()
    }
    absent = [name for name, value in official.items() if value is None]
    if absent:
        raise BundleError(f"cannot rebuild the reference: in no graph: {', '.join(absent)}")
    return load_reference(sizes, _lazy({k: v for k, v in official.items() if v is not None}))


def _official(name: str, shape: tuple[int, ...], weights: Mapping[str, Tensor]) -> Tensor | None:
    """A parameter of the reference from what the graphs hold of it, or None."""
    if name in weights:
        return weights[name].reshape(shape) if len(shape) == 1 else weights[name]
    stem, _, leaf = name.rpartition(".")
    parent, _, fused = stem.rpartition(".")
    if fused in FUSED:
        parts = [weights.get(f"{parent}.{part}.weight") for part in FUSED[fused]]
        found = [p for p in parts if p is not None]
        return torch.cat(found) if len(found) == len(parts) else None
    plain = weights.get(f"{stem}.weight")
    if leaf in ("weight_v", "weight_g") and plain is not None:
        return plain if leaf == "weight_v" else plain.flatten(1).norm(dim=1).reshape(shape)
    return torch.zeros(shape) if leaf == "empty_audio_feat" else None


def _same(value: Tensor) -> Tensor:
    return value


def _lazy(weights: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
    return {
        name: LazyTensor(shape=tuple(value.shape), dtype="float32", load=partial(_same, value))
        for name, value in weights.items()
    }
