"""What an export reads: checkpoint, thinker, text files, all checked before any writing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_rt.contract import SYNC_FRAME_PX, SYNC_SEGMENT_FRAMES
from omni_rt.errors import BundleError, ExportError
from omni_rt.export.checkpoint import (
    Checkpoint,
    LazyTensor,
    open_checkpoint,
    open_thinker_folder,
    release_files,
)
from omni_rt.export.config import read_config
from omni_rt.export.contract import MODEL_STAGES, STAGES, SYNCHFORMER, THINKER_STAGES
from omni_rt.export.reference.model import ModelSizes, checked_tensors
from omni_rt.export.reference.synchformer import SynchformerSizes, open_synchformer
from omni_rt.export.reference.thinker_config import MEDIA_TOKENS, ThinkerSizes, read_thinker_config
from omni_rt.export.reference.thinker_files import check_thinker
from omni_rt.export.student import StudentSpec, student_of
from omni_rt.export.text_files import check_vocabulary, find_text_files, read_prompts
from omni_rt.export.tracing import StageSizes
from omni_rt.manifest import SpecialIds
from omni_rt.preprocess.chat import STOP_TOKENS, Tokenizer

OFFICIAL_LICENCE = "CC BY-NC 4.0, research use only (the official Audio-Omni weights)"

WEIGHTS = ("fp32", "half")


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
    synchformer: Path | None = None  # MMAudio's synchformer_state_dict.pth
    synchformer_heads: int = 12
    stages: tuple[str, ...] | None = None  # None: all that the files given have
    name: str = "audio-omni"
    licence: str = OFFICIAL_LICENCE
    overwrite: bool = False
    certify_steps: int = 4
    workers: int = 1  # processes that trace graphs
    weights: str = "fp32"  # how they are stored: "fp32", or "half": in 16 bits where they can be


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkerSource:
    """The thinker's part of the sources, checked."""

    sizes: ThinkerSizes
    layer_index: int
    tensors: Mapping[str, LazyTensor]
    config: Mapping[str, Any]
    special_ids: SpecialIds
    tokenizer: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SynchformerSource:
    """Synchformer's part of the sources, checked."""

    sizes: SynchformerSizes
    tensors: Mapping[str, LazyTensor]
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything that is read, checked before anything is written."""

    options: ExportOptions
    checkpoint: Checkpoint
    raw_config: Mapping[str, Any]
    sizes: ModelSizes
    tensors: Mapping[str, LazyTensor]
    thinker: ThinkerSource | None
    synchformer: SynchformerSource | None
    prompts: Mapping[str, str] | None
    vocabulary: Path | None
    stages: tuple[str, ...]
    student: StudentSpec | None

    @property
    def stage_sizes(self) -> StageSizes:
        thinker, synchformer = self.thinker, self.synchformer
        return StageSizes(
            model=self.sizes,
            thinker=None if thinker is None else thinker.sizes,
            synchformer=None if synchformer is None else synchformer.sizes,
        )

    def release(self) -> None:
        """Unmap the checkpoint: whatever is read next maps it again."""
        release_files(self.tensors)
        for part in (self.thinker, self.synchformer):
            if part is not None:
                release_files(part.tensors)


def open_sources(options: ExportOptions) -> Sources:
    """Open and check everything. Raises ExportError naming what is missing and how to give it."""
    if options.weights not in WEIGHTS:
        raise ExportError(f"weights must be {' or '.join(WEIGHTS)}, got {options.weights!r}")
    config, raw = read_config(options.config)
    checkpoint = open_checkpoint(options.checkpoint)
    sizes, tensors = checked_tensors(config, checkpoint.model)
    stages = _chosen_stages(options)
    with_thinker = bool(set(stages) & set(THINKER_STAGES))
    thinker = None
    if with_thinker:
        thinker = _open_thinker(options, checkpoint, config.thinker_layer, stages)
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
        synchformer=_open_synchformer(options, sizes) if SYNCHFORMER in stages else None,
        prompts=None if prompts_path is None else read_prompts(prompts_path),
        vocabulary=vocabulary,
        stages=stages,
        student=student_of(raw),
    )


def _chosen_stages(options: ExportOptions) -> tuple[str, ...]:
    without = () if options.synchformer is not None else (SYNCHFORMER,)
    default = tuple(name for name in STAGES if name not in without)
    chosen = default if options.stages is None else options.stages
    unknown = [name for name in chosen if name not in STAGES]
    if unknown or not chosen:
        raise ExportError(f"unknown stages {unknown}: choose among {', '.join(STAGES)}")
    return tuple(name for name in STAGES if name in chosen)


def _open_thinker(
    options: ExportOptions, checkpoint: Checkpoint, layer_index: int, stages: tuple[str, ...]
) -> ThinkerSource:
    if options.qwen is None:
        raise ExportError(
            "thinker: give --qwen DIR, a local Hugging Face folder of Qwen2.5-Omni-3B, "
            f"or leave the thinker out with --stages {','.join(MODEL_STAGES)}"
        )
    config = read_thinker_config(options.qwen / "config.json")
    tensors = checkpoint.thinker or open_thinker_folder(options.qwen)
    if not tensors:
        raise ExportError(f"thinker: neither {options.checkpoint} nor {options.qwen} has weights")
    sizes = ThinkerSizes.from_config(config)
    needed = check_thinker(sizes, layer_index, tensors, stages)
    tokenizer = options.qwen / "tokenizer.json"
    return ThinkerSource(
        sizes=sizes,
        layer_index=layer_index,
        tensors=needed,
        config=config,
        special_ids=_special_ids(tokenizer, sizes),
        tokenizer=tokenizer,
    )


def _special_ids(path: Path, sizes: ThinkerSizes) -> SpecialIds:
    """The ids of the tokens with a meaning, on which tokenizer and configuration must agree."""
    if not path.is_file():
        raise ExportError(f"tokenizer: no file at {path}")
    try:
        tokenizer = Tokenizer(path)
    except BundleError as error:
        raise ExportError(f"tokenizer: {error}") from error

    def id_of(token: str) -> int:
        ids = tokenizer.encode(token)
        if len(ids) != 1:
            raise ExportError(f"tokenizer: {path} does not know {token} as one token")
        return int(ids[0])

    id_of("<|im_start|>")
    found = {name: id_of(token) for name, (_, token) in MEDIA_TOKENS.items()}
    differing = {name for name, value in sizes.token_ids.items() if found[name] != value}
    if differing:
        raise ExportError(
            f"tokenizer: {path} and config.json give different ids to {', '.join(differing)}"
        )
    return SpecialIds(**found, stop=tuple(map(id_of, STOP_TOKENS)))


def _open_synchformer(options: ExportOptions, sizes: ModelSizes) -> SynchformerSource:
    if options.synchformer is None:
        raise ExportError(
            "synchformer: give --synchformer FILE, the synchformer_state_dict.pth that MMAudio "
            "publishes, or leave that stage out"
        )
    own, tensors = open_synchformer(options.synchformer, heads=options.synchformer_heads)
    if own.width != sizes.conditioners.sync_width:
        raise ExportError(
            f"synchformer: its features are {own.width} wide, the checkpoint's conditioner "
            f"takes {sizes.conditioners.sync_width}"
        )
    if (own.frames, own.frame_px) != (SYNC_SEGMENT_FRAMES, SYNC_FRAME_PX):
        raise ExportError(
            f"synchformer: it takes {own.frames} frames of {own.frame_px} pixels, "
            f"not {SYNC_SEGMENT_FRAMES} of {SYNC_FRAME_PX}"
        )
    return SynchformerSource(sizes=own, tensors=tensors, path=options.synchformer)


def _open_text(
    options: ExportOptions, with_thinker: bool, with_transcript: bool
) -> tuple[Path | None, Path | None]:
    given = (options.upstream, options.prompts, options.vocabulary)
    if not with_thinker and (not with_transcript or given == (None, None, None)):
        return None, None  # a bundle for arrays, not for texts
    return find_text_files(*given)
