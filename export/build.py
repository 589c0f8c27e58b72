"""Checkpoint → bundle: check everything, write the graphs, certify them, record their source."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import omni_rt
from omni_rt import verify
from omni_rt.bundle import Bundle, graph_digest, sha256_of
from omni_rt.contract import SYNC_FRAME_PX, SYNC_SEGMENT_FRAMES
from omni_rt.export.checkpoint import LazyTensor, provenance
from omni_rt.export.contract import MODEL_STAGES, SYNCHFORMER, THINKER, dims_of
from omni_rt.export.graphs import OPSET, Stage, finite, write_graph
from omni_rt.export.pack import list_files, new_directory
from omni_rt.export.parity import CFG_SCALE, ParityInputs, ParityReference
from omni_rt.export.parity_senses import (
    audio_tower_parity,
    synchformer_parity,
    thinker_parity,
    vision_tower_parity,
)
from omni_rt.export.reference.model import CONDITIONERS, load_reference
from omni_rt.export.reference.synchformer import load_synchformer
from omni_rt.export.reference.thinker_files import (
    load_audio_tower,
    load_thinker,
    load_vision_tower,
)
from omni_rt.export.sources import ExportOptions, Sources, open_sources
from omni_rt.export.stage_weights import stage_weights
from omni_rt.export.tracing import traced_stages
from omni_rt.export.weight_file import WeightFile
from omni_rt.manifest import (
    SCHEMA,
    Certificate,
    GraphSpec,
    Manifest,
    Measurement,
    TextSpec,
    write_manifest,
)

_PARITY_BYTES = 1 << 28  # room for inputs and reference outputs

Progress = Callable[[str], None]


def export_bundle(options: ExportOptions, *, progress: Progress = lambda _: None) -> Path:
    """Make the bundle `options.out`. Returns its path.

    Raises ExportError, before anything is written, for whatever is wrong with the sources or the
    disk; a failed or interrupted export leaves nothing behind.
    """
    progress("reading the checkpoint")
    sources = open_sources(options)
    stages = [sources.stage_sizes.stage(name) for name in sources.stages]
    weights = {stage.name: _weights(stage, sources) for stage in stages}
    needed = _PARITY_BYTES + sum(_bytes(w) for w in weights.values())
    with new_directory(options.out, needed_bytes=needed, overwrite=options.overwrite) as draft:
        fold_id = "fp32"
        _write_graphs(draft, sources, stages, weights, fold_id, progress)
        text = _write_text(draft, sources)
        _write_constants(draft, sources)
        parity = _write_parity(draft, sources, progress)
        progress("hashing")
        manifest = Manifest(
            schema=SCHEMA,
            name=options.name,
            dims=dims_of(sources.sizes, sources.stage_sizes.thinker),
            graphs={stage.name: _graph_spec(stage, fold_id) for stage in stages},
            engines={},
            text=text,
            constants="constants.npz",
            parity=parity,
            plans={},
            default_plan="euler-100",
            files=list_files(draft),
            weights_licence=options.licence,
            provenance=_provenance(sources),
        )
        write_manifest(replace(manifest, certificate=_certify(draft, manifest, progress)), draft)
    return options.out


def _weights(stage: Stage, sources: Sources) -> dict[str, LazyTensor]:
    if stage.name in MODEL_STAGES:
        return stage_weights(stage, sources.tensors)
    if stage.name == SYNCHFORMER:
        assert sources.synchformer is not None
        return stage_weights(stage, sources.synchformer.tensors)
    assert sources.thinker is not None
    named = {THINKER + name: tensor for name, tensor in sources.thinker.tensors.items()}
    return stage_weights(stage, named)


def _bytes(weights: Mapping[str, LazyTensor]) -> int:
    return sum(4 * int(np.prod(tensor.shape)) for tensor in weights.values())


def _write_graphs(
    draft: Path,
    sources: Sources,
    stages: Sequence[Stage],
    weights: Mapping[str, Mapping[str, LazyTensor]],
    fold_id: str,
    progress: Progress,
) -> None:
    folder = draft / "graphs"
    folder.mkdir()
    files = {stage.data_file: WeightFile(folder / stage.data_file) for stage in stages}
    try:
        workers = sources.options.workers
        with closing(traced_stages(sources.stages, sources.stage_sizes, workers=workers)) as traced:
            for stage in stages:
                progress(f"graph {stage.name}")
                data, file = next(traced), files[stage.data_file]
                write_graph(stage, data, weights[stage.name], file=file, fold_id=fold_id)
                sources.release()
    finally:
        for file in files.values():
            file.close()


def _graph_spec(stage: Stage, fold_id: str) -> GraphSpec:
    return GraphSpec(
        path=f"graphs/{stage.name}.onnx",
        data=(f"graphs/{stage.data_file}",),
        precision="fp32",
        opset=OPSET,
        fold_id=fold_id,
        inputs=stage.ports.inputs,
        outputs=stage.ports.outputs,
    )


def _write_text(draft: Path, sources: Sources) -> TextSpec:
    folder = draft / "text"
    thinker = sources.thinker
    if sources.prompts is not None or thinker is not None:
        folder.mkdir()
    if sources.prompts is not None:
        text = json.dumps(sources.prompts, indent=1, ensure_ascii=False)
        (folder / "prompts.json").write_text(text, encoding="utf-8")
    if sources.vocabulary is not None:
        shutil.copyfile(sources.vocabulary, folder / "vocabulary.txt")
    if thinker is not None:
        shutil.copyfile(thinker.tokenizer, folder / "tokenizer.json")
    return TextSpec(
        tokenizer="text/tokenizer.json" if thinker is not None else None,
        prompts="text/prompts.json" if sources.prompts is not None else None,
        vocabulary="text/vocabulary.txt" if sources.vocabulary is not None else None,
        special_ids=None if thinker is None else thinker.special_ids,
    )


def _write_constants(draft: Path, sources: Sources) -> None:
    """A tensor of the checkpoint keeps the whole file mapped: none may outlive a function."""
    name = CONDITIONERS + "speech_prompt.empty_speech_feat"
    empty = finite(name, sources.tensors[name].float32())
    np.savez(draft / "constants.npz", empty_transcript=empty.numpy())


def _write_parity(draft: Path, sources: Sources, progress: Progress) -> dict[str, str]:
    """Run the reference and store what it made, one part of the model after another."""
    folder = draft / "parity"
    folder.mkdir()
    names = _write_model_parity(folder, sources, progress)
    sources.release()
    for name, arrays in _senses_parity(sources, progress):
        _save(folder / f"{name}.npz", arrays)
        sources.release()
        names.append(name)
    return {name: f"parity/{name}.npz" for name in names}


def _write_model_parity(folder: Path, sources: Sources, progress: Progress) -> list[str]:
    names = [name for name in MODEL_STAGES if name in sources.stages]
    if not names:
        return []
    if "dit_step" in names:  # its inputs are two other stages' outputs
        names += [name for name in ("context", "signal") if name not in names]
    progress("reference: loading")
    model = load_reference(sources.sizes, sources.tensors)
    characters = sources.sizes.conditioners.vocabulary
    reference = ParityReference(model, ParityInputs(dims_of(sources.sizes), vocabulary=characters))
    # the transformer last: once read, its pages count as memory
    for name in sorted(names, key="dit_step".__eq__):
        progress(f"reference: {name}")
        _save(folder / f"{name}.npz", reference.stage(name))
    if "dit_step" in names:
        steps = sources.options.certify_steps
        recipe = {"steps": np.array(steps), "cfg_scale": np.array(CFG_SCALE)}
        arrays = reference.end_to_end(
            steps=steps, on_step=lambda i: progress(f"reference: guided step {i} of {steps}")
        )
        _save(folder / f"{verify.END_TO_END}.npz", {**arrays, **recipe})
        names.append(verify.END_TO_END)
    return names


def _senses_parity(sources: Sources, progress: Progress) -> Iterator[tuple[str, Any]]:
    """The thinker's parts and Synchformer, each loaded, run and dropped."""
    thinker, synchformer, stages = sources.thinker, sources.synchformer, set(sources.stages)
    if thinker is not None and "audio_tower" in stages:
        progress("reference: audio_tower")
        yield "audio_tower", audio_tower_parity(load_audio_tower(thinker.sizes, thinker.tensors))
    if thinker is not None and "vision_tower" in stages:
        progress("reference: vision_tower")
        eye = load_vision_tower(thinker.sizes, thinker.tensors)
        yield "vision_tower", vision_tower_parity(eye, thinker.sizes)
        del eye
    if thinker is not None and stages & {"thinker_embed", "thinker_cond", "thinker_lm"}:
        progress("reference: thinker")
        speaks, layer = "thinker_lm" in stages, thinker.layer_index
        module = load_thinker(thinker.sizes, layer, thinker.tensors, speaks=speaks)
        for name, arrays in thinker_parity(module, layer, speaks=speaks):
            if name in stages:
                yield name, arrays
        del module
    if synchformer is not None:
        progress("reference: synchformer")
        own = load_synchformer(synchformer.sizes, synchformer.tensors)
        yield (
            SYNCHFORMER,
            synchformer_parity(own, frames=SYNC_SEGMENT_FRAMES, px=SYNC_FRAME_PX),
        )


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    np.savez(path, **arrays)


def _certify(draft: Path, manifest: Manifest, progress: Progress) -> Certificate:
    """Measure every graph with ONNX Runtime against the stored reference."""
    import onnxruntime

    bundle = Bundle(draft, manifest)

    def loader(stage: str) -> Any:
        progress(f"certifying {stage}")
        return verify.load(bundle, stage)

    stages: dict[str, Measurement] = {}
    whole: dict[str, Measurement] = {}
    for _, of_stage, end_to_end in verify.measurements(bundle, loader):
        stages |= of_stage
        whole |= end_to_end
    return Certificate(
        reference=f"torch {torch.__version__}, fp32",
        library=f"onnxruntime {onnxruntime.__version__}, CPU",
        stages=stages,
        end_to_end=whole,
        graphs={n: graph_digest(g, manifest.files) for n, g in manifest.graphs.items()},
    )


def _provenance(sources: Sources) -> dict[str, Any]:
    return {
        "omni_rt": omni_rt.__version__,
        "torch": torch.__version__,
        "checkpoint": provenance(sources.checkpoint),
        "config": sources.raw_config,
        "thinker_config": None if sources.thinker is None else sources.thinker.config,
        "synchformer": _synchformer_provenance(sources),
    }


def _synchformer_provenance(sources: Sources) -> dict[str, Any] | None:
    own = sources.synchformer
    if own is None:
        return None
    return {"file": own.path.name, "sha256": sha256_of(own.path), "heads": own.sizes.heads}
