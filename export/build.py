"""Checkpoint → bundle: check everything, write the graphs, certify them, record their source."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import omni_rt
from omni_rt import verify
from omni_rt.bundle import Bundle, sha256_of
from omni_rt.export.bundle_plans import model_of, put_plans
from omni_rt.export.checkpoint import LazyTensor, provenance
from omni_rt.export.contract import MODEL_STAGES, SYNCHFORMER, THINKER, dims_of
from omni_rt.export.graphs import OPSET, Stage, finite, write_graph
from omni_rt.export.guidance import guidance_of
from omni_rt.export.pack import list_files, new_directory
from omni_rt.export.parity_files import Progress, write_parity
from omni_rt.export.reference.model import CONDITIONERS
from omni_rt.export.sources import ExportOptions, Sources, open_sources
from omni_rt.export.stage_weights import stage_weights
from omni_rt.export.student import CFG_SCALE
from omni_rt.export.tracing import traced_stages
from omni_rt.export.weight_file import WeightFile
from omni_rt.manifest import (
    SCHEMA,
    GraphSpec,
    Manifest,
    TextSpec,
    write_manifest,
)
from omni_rt.plan_file import plan_file

_PARITY_BYTES = 1 << 28  # room for inputs and reference outputs


def export_bundle(options: ExportOptions, *, progress: Progress = lambda _: None) -> Path:
    """Make the bundle `options.out`. Returns its path.

    Raises ExportError, before anything is written, for whatever is wrong with the sources or the
    disk; a failed or interrupted export leaves nothing behind.
    """
    progress("reading the checkpoint")
    sources = open_sources(options)
    student = None if sources.student is None else sources.student.plan()
    stages = [sources.stage_sizes.stage(name) for name in sources.stages]
    weights = {stage.name: _weights(stage, sources) for stage in stages}
    per_value = 2 if options.weights == "half" else 4
    needed = _PARITY_BYTES + sum(per_value * _values(w) for w in weights.values())
    with new_directory(options.out, needed_bytes=needed, overwrite=options.overwrite) as draft:
        fold_id = "fp32"
        rounded = _write_graphs(draft, sources, stages, weights, fold_id, progress)
        text = _write_text(draft, sources)
        _write_constants(draft, sources)
        parity = write_parity(draft, sources, rounded=rounded, progress=progress)
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
            default_plan="euler-100" if student is None else student.name,
            default_guidance=guidance_of(sources.raw_config) if student is None else CFG_SCALE,
            files=list_files(draft),
            weights_licence=options.licence,
            provenance=_provenance(sources),
        )
        certificate = verify.certificate(
            Bundle(draft, manifest), reference=f"torch {torch.__version__}, fp32", tell=progress
        )
        manifest = replace(manifest, certificate=certificate)
        write_manifest(manifest, draft)
        if student is not None:
            bundle = Bundle(draft, manifest)
            rows = replace(student, model=model_of(bundle, "student"), cfg_scale=CFG_SCALE)
            put_plans(bundle, [plan_file(rows)])
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


def _values(weights: Mapping[str, LazyTensor]) -> int:
    return sum(int(np.prod(tensor.shape)) for tensor in weights.values())


def _write_graphs(
    draft: Path,
    sources: Sources,
    stages: Sequence[Stage],
    weights: Mapping[str, Mapping[str, LazyTensor]],
    fold_id: str,
    progress: Progress,
) -> dict[str, list[str]]:
    """Write them all. Returns the stages with rounded weights, and what these put out."""
    folder, rounded = draft / "graphs", {}
    half = sources.options.weights == "half"
    folder.mkdir()
    files = {stage.data_file: WeightFile(folder / stage.data_file) for stage in stages}
    try:
        workers = sources.options.workers
        with closing(traced_stages(sources.stages, sources.stage_sizes, workers=workers)) as traced:
            for stage in stages:
                progress(f"graph {stage.name}")
                data, file = next(traced), files[stage.data_file]
                own = weights[stage.name]
                if write_graph(stage, data, own, file=file, fold_id=fold_id, half=half):
                    rounded[stage.name] = [port.name for port in stage.ports.outputs]
                sources.release()
    finally:
        for file in files.values():
            file.close()
    return rounded


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


def _provenance(sources: Sources) -> dict[str, Any]:
    return {
        "omni_rt": omni_rt.__version__,
        "torch": torch.__version__,
        "checkpoint": provenance(sources.checkpoint),
        "config": sources.raw_config,
        "weights": sources.options.weights,
        "thinker_config": None if sources.thinker is None else sources.thinker.config,
        "synchformer": _synchformer_provenance(sources),
    }


def _synchformer_provenance(sources: Sources) -> dict[str, Any] | None:
    own = sources.synchformer
    if own is None:
        return None
    return {"file": own.path.name, "sha256": sha256_of(own.path), "heads": own.sizes.heads}
