"""The reference's run at export: `parity/*.npz`, and what rounding weights changes in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omni_rt.contract import SYNC_FRAME_PX, SYNC_SEGMENT_FRAMES
from omni_rt.export.contract import MODEL_STAGES, SYNCHFORMER, dims_of
from omni_rt.export.half_weights import narrowed
from omni_rt.export.parity import CFG_SCALE, Arrays, ParityInputs, ParityReference
from omni_rt.export.parity_senses import (
    audio_tower_parity,
    synchformer_parity,
    thinker_parity,
    vision_tower_parity,
)
from omni_rt.export.reference.autoencoder import Conv, ConvTranspose, weight_norm
from omni_rt.export.reference.model import AudioOmni, load_reference
from omni_rt.export.reference.synchformer import load_synchformer
from omni_rt.export.reference.thinker_files import (
    load_audio_tower,
    load_thinker,
    load_vision_tower,
)
from omni_rt.export.sources import Sources
from omni_rt.export.stage_weights import FUSED
from omni_rt.metrics import rel_l2
from omni_rt.verify import END_TO_END, ROUNDED, flat, grouped

Progress = Callable[[str], None]
Parts = Iterator[tuple[str, Arrays]]
Outputs = Mapping[str, Collection[str]]  # stage → names of its outputs


def write_parity(
    draft: Path, sources: Sources, *, rounded: Outputs, progress: Progress
) -> dict[str, str]:
    """Run the reference and store what it made, one part of the model after another.

    Of stages with `rounded` weights (and their outputs), also how far that moves the reference.
    """
    (draft / "parity").mkdir()
    written = {}
    if "dit_step" in rounded:
        rounded = {**rounded, END_TO_END: ("latents",)}
    for parts in (_model_parity, _senses_parity):
        for name, arrays in parts(sources, rounded, progress):
            written[name] = f"parity/{name}.npz"
            _save(draft / written[name], arrays)
        sources.release()
    return written


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    np.savez(path, **arrays)


def _model_parity(sources: Sources, rounded: Outputs, progress: Progress) -> Parts:
    names = [name for name in MODEL_STAGES if name in sources.stages]
    if not names:
        return
    if "dit_step" in names:  # its inputs are two other stages' outputs
        names += [name for name in ("context", "signal") if name not in names]
        names.append(END_TO_END)
    # the transformer last: once read, its pages count as memory
    names.sort(key=lambda name: name in ("dit_step", END_TO_END))
    progress("reference: loading")
    model = load_reference(sources.sizes, sources.tensors)
    run = partial(_model_arrays, model, sources, progress)
    yield from _with_rounding(model, run, names, rounded)


def _model_arrays(
    model: AudioOmni, sources: Sources, progress: Progress, names: Collection[str]
) -> Parts:
    characters = sources.sizes.conditioners.vocabulary
    reference = ParityReference(model, ParityInputs(dims_of(sources.sizes), vocabulary=characters))
    steps = sources.options.certify_steps
    for name in names:
        if name != END_TO_END:
            progress(f"reference: {name}")
            yield name, reference.stage(name)
            continue
        arrays = reference.end_to_end(
            steps=steps, on_step=lambda i: progress(f"reference: guided step {i} of {steps}")
        )
        recipe = {"steps": np.array(steps), "cfg_scale": np.array(CFG_SCALE)}
        yield name, {**arrays, **recipe}


def _senses_parity(sources: Sources, rounded: Outputs, progress: Progress) -> Parts:
    """The thinker's parts and Synchformer, each loaded, run and dropped."""
    for part in (_audio_tower, _vision_tower, _thinker, _synchformer):
        loaded = part(sources, progress)
        if loaded is not None:
            names, module, run = loaded
            yield from _with_rounding(module, run, names, rounded)
            del loaded, module, run
            sources.release()


Loaded = tuple[list[str], nn.Module, Callable[[Collection[str]], Parts]]


def _audio_tower(sources: Sources, progress: Progress) -> Loaded | None:
    name, thinker = "audio_tower", sources.thinker
    if thinker is None or name not in sources.stages:
        return None
    progress(f"reference: {name}")
    tower = load_audio_tower(thinker.sizes, thinker.tensors)
    return [name], tower, lambda _: iter([(name, audio_tower_parity(tower))])


def _vision_tower(sources: Sources, progress: Progress) -> Loaded | None:
    name, thinker = "vision_tower", sources.thinker
    if thinker is None or name not in sources.stages:
        return None
    progress(f"reference: {name}")
    sizes = thinker.sizes
    tower = load_vision_tower(sizes, thinker.tensors)
    return [name], tower, lambda _: iter([(name, vision_tower_parity(tower, sizes))])


def _thinker(sources: Sources, progress: Progress) -> Loaded | None:
    source = sources.thinker
    of_thinker = ("thinker_embed", "thinker_cond", "thinker_lm")
    names = [name for name in sources.stages if name in of_thinker]
    if source is None or not names:
        return None
    progress("reference: thinker")
    speaks, layer = "thinker_lm" in names, source.layer_index
    thinker = load_thinker(source.sizes, layer, source.tensors, speaks=speaks)

    def run(wanted: Collection[str]) -> Parts:
        for name, arrays in thinker_parity(thinker, layer, speaks=speaks):
            if name in wanted:
                yield name, arrays

    return names, thinker, run


def _synchformer(sources: Sources, progress: Progress) -> Loaded | None:
    source = sources.synchformer
    if source is None:
        return None
    progress("reference: synchformer")
    own = load_synchformer(source.sizes, source.tensors)

    def run(_: Collection[str]) -> Parts:
        yield SYNCHFORMER, synchformer_parity(own, frames=SYNC_SEGMENT_FRAMES, px=SYNC_FRAME_PX)

    return [SYNCHFORMER], own, run


def _with_rounding(
    module: nn.Module,
    run: Callable[[Collection[str]], Parts],
    names: Collection[str],
    rounded: Outputs,
) -> Parts:
    """What `run` makes of these stages, and what rounding the module's weights changes in it.

    If it changes anything, the module is left with rounded weights.
    """
    found = dict(run(names))
    again = [name for name in names if name in rounded]
    if again:
        round_weights(module)
        for name, arrays in run(again):
            found[name] |= _changes(found[name], arrays, rounded[name])
    yield from found.items()


def _changes(exact: Arrays, rounded: Arrays, outputs: Collection[str]) -> Arrays:
    """How far apart two runs' outputs are (relative L2), as arrays to be stored."""
    return {
        ROUNDED + group: np.array(rel_l2(flat(rounded, names), flat(exact, names)))
        for group, names in grouped(outputs).items()
    }


def round_weights(module: nn.Module) -> None:
    """Give every parameter of the reference the values that `--weights half` stores.

    As the graphs have them: fused projections in parts, weight norms multiplied out.
    """
    for part in module.modules():
        if isinstance(part, (Conv, ConvTranspose)):
            _round_normed(part)
    for name, parameter in module.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if leaf not in ("weight_g", "weight_v"):
            parts = FUSED.get(owner.rpartition(".")[2], ("all",))
            rows = [_rounded(own) for own in parameter.data.chunk(len(parts))]
            parameter.data = rows[0] if len(rows) == 1 else torch.cat(rows)


def _rounded(value: Tensor) -> Tensor:
    return narrowed(value, may_round=True).float()


def _round_normed(conv: Conv | ConvTranspose) -> None:
    """A rounded product as direction and size; rows of size 0 keep their direction."""
    exact = weight_norm(conv.weight_g, conv.weight_v)
    rounded = _rounded(exact)
    if torch.equal(rounded, exact):
        return
    sizes = rounded.flatten(1).norm(dim=1)[:, None, None]
    conv.weight_v.data = torch.where(sizes > 0, rounded, conv.weight_v)
    conv.weight_g.data = sizes
