"""What an export reads: checkpoint, thinker, text files, all checked before any writing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_rt.errors import BundleError, ExportError
from omni_rt.export.checkpoint import (
    Checkpoint,
    LazyTensor,
    open_checkpoint,
    open_thinker_folder,
    release_files,
)
from omni_rt.export.config import read_config
from omni_rt.export.contract import MODEL_STAGES, STAGES, THINKER_STAGES
from omni_rt.export.reference.model import ModelSizes, check_thinker, checked_tensors
from omni_rt.export.reference.thinker import ThinkerSizes
from omni_rt.export.text_files import check_vocabulary, find_text_files, read_prompts
from omni_rt.export.tracing import StageSizes
from omni_rt.preprocess.chat import Tokenizer

OFFICIAL_LICENCE = "CC BY-NC 4.0, research use only (the official Audio-Omni weights)"


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
class ThinkerSource:
    """The thinker's part of the sources, checked."""

    sizes: ThinkerSizes
    layer_index: int
    tensors: Mapping[str, LazyTensor]
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything that is read, checked before anything is written."""

    options: ExportOptions
    checkpoint: Checkpoint
    raw_config: Mapping[str, Any]
    sizes: ModelSizes
    tensors: Mapping[str, LazyTensor]
    thinker: ThinkerSource | None
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
        )

    def release(self) -> None:
        """Unmap the checkpoint: whatever is read next maps it again."""
        release_files(self.tensors)
        if self.thinker is not None:
            release_files(self.thinker.tensors)


def open_sources(options: ExportOptions) -> Sources:
    """Open and check everything. Raises ExportError naming what is missing and how to give it."""
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
    return Sources(
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


def _open_thinker(
    options: ExportOptions, checkpoint: Checkpoint, layer_index: int
) -> ThinkerSource:
    if options.qwen is None:
        raise ExportError(
            "thinker: give --qwen DIR, a local Hugging Face folder of Qwen2.5-Omni-3B, "
            f"or leave the thinker out with --stages {','.join(MODEL_STAGES)}"
        )
    path = options.qwen / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"thinker: cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise ExportError(f"thinker: {path} must hold an object")
    tensors = checkpoint.thinker or open_thinker_folder(options.qwen)
    if not tensors:
        raise ExportError(f"thinker: neither {options.checkpoint} nor {options.qwen} has weights")
    sizes = ThinkerSizes.from_config(config)
    needed = check_thinker(sizes, layer_index, tensors)
    return ThinkerSource(sizes=sizes, layer_index=layer_index, tensors=needed, config=config)


def _open_tokenizer(options: ExportOptions) -> Path:
    assert options.qwen is not None
    path = options.qwen / "tokenizer.json"
    if not path.is_file():
        raise ExportError(f"tokenizer: no file at {path}")
    try:
        tokenizer = Tokenizer(path)
    except BundleError as error:
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
