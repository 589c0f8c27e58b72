"""Which official tensors a stage's weights are: split thirds, multiplied-out norms, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from omni_rt.export.checkpoint import LazyTensor
from omni_rt.export.graphs import Stage, tensors_of
from omni_rt.export.reference.autoencoder import weight_norm

# Fused projections and the parts they are split into, in the order of their rows.
FUSED: Mapping[str, tuple[str, ...]] = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "qkv": ("q", "k", "v"),
}


def stage_weights(stage: Stage, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The values of every parameter and table of a stage, by official name, on demand."""
    own = tensors_of(stage.module)
    return {
        stage.official_name(name): _find(stage.official_name(name), value, tensors)
        for name, value in own.items()
    }


def _find(name: str, own: Tensor, tensors: Mapping[str, LazyTensor]) -> LazyTensor:
    if name in tensors:
        return tensors[name].reshaped(own.shape)  # a patch embedding is stored as a convolution
    derived = _split(name, tensors) or _multiplied_out(name, tensors)
    if derived is not None:
        return derived
    # a table computed by the module itself; parameters cannot get here: names were checked
    assert not own.is_meta, name
    return replace(_lazy(tuple(own.shape), lambda: own), computed=True)


def _split(name: str, tensors: Mapping[str, LazyTensor]) -> LazyTensor | None:
    """A part of a fused projection, or of its bias."""
    stem, _, leaf = name.rpartition(".")
    parent, _, part = stem.rpartition(".")
    for fused, parts in FUSED.items():
        source = tensors.get(f"{parent}.{fused}.{leaf}")
        if source is not None and part in parts:
            rows = source.shape[0] // len(parts)
            start = parts.index(part) * rows
            return _lazy((rows, *source.shape[1:]), partial(_rows, source, start, rows))
    return None


def _rows(source: LazyTensor, start: int, rows: int) -> Tensor:
    return source.float32()[start : start + rows]


def _multiplied_out(name: str, tensors: Mapping[str, LazyTensor]) -> LazyTensor | None:
    g, v = tensors.get(name + "_g"), tensors.get(name + "_v")
    if g is None or v is None:
        return None
    return _lazy(v.shape, lambda: weight_norm(g.float32(), v.float32()))


def _lazy(shape: tuple[int, ...], load: Callable[[], Tensor]) -> LazyTensor:
    return LazyTensor(shape=shape, dtype="float32", load=load)
