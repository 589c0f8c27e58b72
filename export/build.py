"""Checkpoint → bundle: check everything, write the graphs, certify them, record their source."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import omni_rt
from omni_rt import verify
from omni_rt.bundle import Bundle, graph_digest
from omni_rt.errors import ExportError
from omni_rt.export.checkpoint import (
    Checkpoint,
    LazyTensor,
    open_checkpoint,
    open_thinker_folder,
    provenance,
)
from omni_rt.export.config import read_config
from omni_rt.export.contract import (
    MODEL_STAGES,
    STAGES,
    THINKER_STAGES,
    dims_of,
)
from omni_rt.export.graphs import OPSET, Port, Stage, write_graph
from omni_rt.export.pack import list_files, new_bundle_directory
from omni_rt.export.parity import CFG_SCALE, ParityInputs, ParityReference, thinker_parity
from omni_rt.export.reference.model import (
    CONDITIONERS,
    ModelSizes,
    check_thinker,
    checked_tensors,
    load_reference,
    load_thinker,
)
from omni_rt.export.reference.thinker import ThinkerSizes
from omni_rt.export.stage_weights import stage_weights
from omni_rt.export.text_files import check_vocabulary, find_text_files, read_prompts
from omni_rt.export.tracing import StageSizes, traced_stages
from omni_rt.export.weight_file import WeightFile
from omni_rt.manifest import (
    SCHEMA,
    Certificate,
    GraphSpec,
    Manifest,
    Measurement,
    TensorSpec,
    TextSpec,
    write_manifest,
)
from omni_rt.preprocess.chat import Tokenizer

OFFICIAL_LICENCE = "CC BY-NC 4.0, research use only (the official Audio-Omni weights)"
_PARITY_BYTES = 1 << 28  # room for inputs and reference outputs

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What to export, from where, to where."""

    config: Path
    checkpoint: Path
    out: Path
    qwen: Path | None = None  # Hugging Face folder: tokenizer, config, and weights if need be
    upstream: Path | None = None  # the user's upstream checkout: prompts and vocabulary
    prompts: Path | None = None
    vocabulary: Path | None = None
    stages: tuple[str, ...] | None = None  # None: all
    name: str = "audio-omni"
    licence: str = OFFICIAL_LICENCE
    overwrite: bool = False
    certify_steps: int = 4
    workers: int = 1  # processes that trace graphs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Thinker:
    """The thinker's part of the sources, checked."""

    sizes: ThinkerSizes
    layer_index: int
    tensors: Mapping[str, LazyTensor]
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """Everything that is read, checked before anything is written."""

    options: ExportOptions
    checkpoint: Checkpoint
    raw_config: Mapping[str, Any]
    sizes: ModelSizes
    tensors: Mapping[str, LazyTensor]
    thinker: _Thinker | None
    tokenizer: Path | None
    prompts: Mapping[str, str] | None
    vocabulary: Path | None
    stages: tuple[str, ...]

    @property
    def stage_sizes(self) -> StageSizes:
        thinker = self.thinker
        return StageSizes(
            model=self.sizes,
            thinker=None if thinker is None else thinker.sizes,
            thinker_layer=self.sizes.config.thinker_layer,
        )


def export_bundle(options: ExportOptions, *, progress: Progress = lambda _: None) -> Path:
    """Make the bundle `options.out`. Returns its path.

    Raises ExportError, before anything is written, for whatever is wrong with the sources or the
    disk; a failed or interrupted export leaves nothing behind.
    """
    progress("reading the checkpoint")
    sources = _open_sources(options)
    stages = [sources.stage_sizes.stage(name) for name in sources.stages]
    weights = {stage.name: _weights(stage, sources) for stage in stages}
    needed = _PARITY_BYTES + sum(_bytes(w) for w in weights.values())
    with new_bundle_directory(
        options.out, needed_bytes=needed, overwrite=options.overwrite
    ) as draft:
        fold_id = "fp32"
        _write_graphs(draft, sources, stages, weights, fold_id, progress)
        text = _write_text(draft, sources)
        empty = sources.tensors[CONDITIONERS + "speech_prompt.empty_speech_feat"].float32()
        np.savez(draft / "constants.npz", empty_transcript=empty.numpy())
        parity = _write_parity(draft, sources, progress)
        progress("hashing")
        manifest = Manifest(
            schema=SCHEMA,
            name=options.name,
            dims=dims_of(sources.sizes),
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


def _open_sources(options: ExportOptions) -> _Sources:
    config, raw = read_config(options.config)
    checkpoint = open_checkpoint(options.checkpoint)
    sizes, tensors = checked_tensors(config, checkpoint.model)
    stages = _chosen_stages(options)
    with_thinker = bool(set(stages) & set(THINKER_STAGES))
    thinker = _open_thinker(options, checkpoint, config.thinker_layer) if with_thinker else None
    if thinker is not None and thinker.sizes.width != sizes.conditioners.hidden_width:
        raise ExportError(
            f"thinker: its states are {thinker.sizes.width} wide, the checkpoint's conditioner "
            f"takes {sizes.conditioners.hidden_width}"
        )
    prompts_path, vocabulary = _open_text(options, with_thinker, "transcript" in stages)
    if vocabulary is not None:
        check_vocabulary(vocabulary, rows=sizes.conditioners.vocabulary)
    return _Sources(
        options=options,
        checkpoint=checkpoint,
        raw_config=raw,
        sizes=sizes,
        tensors=tensors,
        thinker=thinker,
        tokenizer=_open_tokenizer(options) if thinker is not None else None,
        prompts=None if prompts_path is None else read_prompts(prompts_path),
        vocabulary=vocabulary,
        stages=stages,
    )


def _chosen_stages(options: ExportOptions) -> tuple[str, ...]:
    chosen = STAGES if options.stages is None else options.stages
    unknown = [name for name in chosen if name not in STAGES]
    if unknown or not chosen:
        raise ExportError(f"unknown stages {unknown}: choose among {', '.join(STAGES)}")
    return tuple(name for name in STAGES if name in chosen)


def _open_thinker(options: ExportOptions, checkpoint: Checkpoint, layer_index: int) -> _Thinker:
    if options.qwen is None:
        raise ExportError(
            "thinker: give --qwen DIR, a local Hugging Face folder of Qwen2.5-Omni-3B, "
            f"or leave the thinker out with --stages {','.join(MODEL_STAGES)}"
        )
    path = options.qwen / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(config, dict)
    except (OSError, ValueError, AssertionError) as error:
        raise ExportError(f"thinker: cannot read {path}: {error}") from error
    tensors = checkpoint.thinker or open_thinker_folder(options.qwen)
    if not tensors:
        raise ExportError(f"thinker: neither {options.checkpoint} nor {options.qwen} has weights")
    sizes = ThinkerSizes.from_config(config)
    needed = check_thinker(sizes, layer_index, tensors)
    return _Thinker(sizes=sizes, layer_index=layer_index, tensors=needed, config=config)


def _open_tokenizer(options: ExportOptions) -> Path:
    assert options.qwen is not None
    path = options.qwen / "tokenizer.json"
    if not path.is_file():
        raise ExportError(f"tokenizer: no file at {path}")
    try:
        tokenizer = Tokenizer(path)
    except omni_rt.BundleError as error:
        raise ExportError(f"tokenizer: {error}") from error
    for token in ("<|im_start|>", "<|im_end|>"):
        if len(tokenizer.encode(token)) != 1:
            raise ExportError(f"tokenizer: {path} does not know {token} as one token")
    return path


def _open_text(
    options: ExportOptions, with_thinker: bool, with_transcript: bool
) -> tuple[Path | None, Path | None]:
    given = (options.upstream, options.prompts, options.vocabulary)
    if not with_thinker and (not with_transcript or given == (None, None, None)):
        return None, None  # a bundle for arrays, not for texts
    return find_text_files(*given)


def _weights(stage: Stage, sources: _Sources) -> dict[str, LazyTensor]:
    if stage.name in MODEL_STAGES:
        return stage_weights(stage, sources.tensors)
    assert sources.thinker is not None
    prefix = stage.official_names[""].removesuffix("model.")
    named = {prefix + name: tensor for name, tensor in sources.thinker.tensors.items()}
    return stage_weights(stage, named)


def _bytes(weights: Mapping[str, LazyTensor]) -> int:
    return sum(4 * int(np.prod(tensor.shape)) for tensor in weights.values())


def _write_graphs(
    draft: Path,
    sources: _Sources,
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
        inputs=tuple(_tensor_spec(port) for port in stage.inputs),
        outputs=tuple(_tensor_spec(port) for port in stage.outputs),
    )


def _tensor_spec(port: Port) -> TensorSpec:
    dtype = str(port.dtype).removeprefix("torch.")
    return TensorSpec(name=port.name, dtype=dtype, shape=port.shape)


def _write_text(draft: Path, sources: _Sources) -> TextSpec:
    folder = draft / "text"
    if sources.prompts is not None or sources.tokenizer is not None:
        folder.mkdir()
    if sources.prompts is not None:
        text = json.dumps(sources.prompts, indent=1, ensure_ascii=False)
        (folder / "prompts.json").write_text(text, encoding="utf-8")
    if sources.vocabulary is not None:
        shutil.copyfile(sources.vocabulary, folder / "vocabulary.txt")
    if sources.tokenizer is not None:
        shutil.copyfile(sources.tokenizer, folder / "tokenizer.json")
    thinker = sources.thinker
    return TextSpec(
        tokenizer="text/tokenizer.json" if sources.tokenizer is not None else None,
        prompts="text/prompts.json" if sources.prompts is not None else None,
        vocabulary="text/vocabulary.txt" if sources.vocabulary is not None else None,
        max_positions=None if thinker is None else thinker.sizes.max_positions,
    )


def _write_parity(draft: Path, sources: _Sources, progress: Progress) -> dict[str, str]:
    """Run the reference and store what it made. `dit_step` needs two other stages' arrays."""
    folder = draft / "parity"
    folder.mkdir()
    names = [name for name in MODEL_STAGES if name in sources.stages]
    if "dit_step" in names:
        names += [name for name in ("context", "signal") if name not in names]
    if names:
        progress("reference: loading")
        model = load_reference(sources.sizes, sources.tensors)
        given = ParityInputs(
            dims_of(sources.sizes), vocabulary=sources.sizes.conditioners.vocabulary
        )
        reference = ParityReference(model, given)
        for name in names:
            progress(f"reference: {name}")
            _save(folder / f"{name}.npz", reference.stage(name))
        if "dit_step" in names:
            steps = sources.options.certify_steps
            progress(f"reference: {steps} guided steps")
            arrays = reference.end_to_end(steps=steps)
            recipe = {"steps": np.array(steps), "cfg_scale": np.array(CFG_SCALE)}
            _save(folder / f"{verify.END_TO_END}.npz", {**arrays, **recipe})
            names.append(verify.END_TO_END)
    if sources.thinker is not None:
        progress("reference: thinker")
        thinker = sources.thinker
        module = load_thinker(thinker.sizes, thinker.layer_index, thinker.tensors)
        for name, arrays in thinker_parity(module).items():
            _save(folder / f"{name}.npz", arrays)
            names.append(name)
    return {name: f"parity/{name}.npz" for name in names}


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


def _provenance(sources: _Sources) -> dict[str, Any]:
    return {
        "omni_rt": omni_rt.__version__,
        "torch": torch.__version__,
        "checkpoint": provenance(sources.checkpoint),
        "config": sources.raw_config,
        "thinker_config": None if sources.thinker is None else sources.thinker.config,
    }
