"""A bundle: a directory with all that a device needs, verified before any of it is opened."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from omni_rt.contract import check_ports
from omni_rt.errors import BundleError
from omni_rt.external_data import external_files
from omni_rt.manifest import (
    MANIFEST,
    FileSpec,
    GraphSpec,
    Manifest,
    SpecialIds,
    ThinkerDims,
    read_manifest,
)
from omni_rt.options import checked_guidance
from omni_rt.plan_file import PlanFile, read_plan_file
from omni_rt.plans import Plan
from omni_rt.strict_json import to_json

_CHUNK_BYTES = 1 << 22

_BROKEN_ARCHIVE = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    MemoryError,
    zipfile.BadZipFile,
)

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `Bundle.open` is the way in; nothing here is loaded before it is used."""

    directory: Path
    manifest: Manifest

    @classmethod
    def open(cls, directory: str | Path, *, progress: Progress | None = None) -> Bundle:
        """Read the manifest and verify size and hash of every file it lists.

        Raises BundleError at the first file that is missing, changed, or outside the bundle.
        """
        bundle = cls(Path(directory), read_manifest(Path(directory)))
        try:
            bundle._verify_files(progress)
        except OSError as error:
            raise BundleError(f"cannot read {error.filename}: {error.strerror}") from error
        bundle._verify_graphs()
        bundle._verify_folds()
        bundle._verify_presets()
        return bundle

    def path(self, relative: str) -> Path:
        """The file behind a path of the manifest."""
        return self.directory / relative

    def graph(self, stage: str) -> GraphSpec:
        """The graph of a stage. Raises BundleError if the bundle was exported without it."""
        try:
            return self.manifest.graphs[stage]
        except KeyError:
            have = ", ".join(self.manifest.graphs) or "none"
            raise BundleError(
                f"this bundle has no {stage!r} stage (it has {have}): export it with that stage"
            ) from None

    def graph_file(self, stage: str) -> Path:
        """The portable graph of a stage, its weights beside it.

        Raises BundleError if the bundle was exported without it, or packed for its engines alone.
        """
        spec = self.graph(stage)
        if not self._absent.isdisjoint((spec.path, *spec.data)):
            engines = {engines.library for engines in self.manifest.engines.values()}
            raise BundleError(
                f"this bundle was packed for its engines, without the graph of {stage!r}: pass "
                f"--engine {' or '.join(sorted(engines)) or 'of another bundle'}, or use the "
                "bundle that it was packed from"
            )
        return self.path(spec.path)

    @cached_property
    def _absent(self) -> frozenset[str]:
        """Paths of the manifest that are not in this copy."""
        return frozenset(self.manifest.left_out)

    @cached_property
    def id(self) -> str:
        """Digest of the manifest, which lists the digests of everything else."""
        return sha256_of(self.path(MANIFEST))[:16]

    @cached_property
    def model_id(self) -> str:
        """Digest of what decides results: graphs, weights, constants, texts and sizes.

        Unlike `id` it is the same before and after plans are fitted, presets measured, engines
        built or a certificate written.
        """
        text, files = self.manifest.text, self.manifest.files
        paths = (self.manifest.constants, text.tokenizer, text.prompts, text.vocabulary)
        told = {
            "graphs": {stage: self.graph_digest(stage) for stage in self.manifest.graphs},
            "files": [None if path is None else files[path].sha256 for path in paths],
            "special_ids": to_json(text.special_ids),
            "dims": to_json(self.manifest.dims),
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def prompts(self) -> Mapping[str, str]:
        """Prompt templates by their upstream names."""
        path = self._text_file("prompts")
        from omni_rt.preprocess.chat import TEMPLATES

        try:
            prompts = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path.name} is not JSON: {error}") from error
        if not isinstance(prompts, dict) or not all(isinstance(v, str) for v in prompts.values()):
            raise BundleError(f"{path.name}: expected an object of strings")
        missing = sorted(TEMPLATES.keys() - prompts.keys())
        if missing:
            raise BundleError(f"{path.name} lacks {', '.join(missing)}")
        return prompts

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Character → id, for transcripts."""
        from omni_rt.preprocess.transcript import read_vocabulary

        return read_vocabulary(self._text_file("vocabulary"))

    @property
    def tokenizer_path(self) -> Path:
        return self._text_file("tokenizer")

    @property
    def thinker_dims(self) -> ThinkerDims:
        """Sizes of the thinker. Raises BundleError if the bundle was exported without it."""
        if self.manifest.dims.thinker is None:
            raise BundleError("this bundle has no thinker: export it with its thinker stages")
        return self.manifest.dims.thinker

    @property
    def special_ids(self) -> SpecialIds:
        """Ids of the tokens with a meaning. Raises BundleError if there is no thinker."""
        if self.manifest.text.special_ids is None:
            raise BundleError("this bundle has no special_ids: export it with its thinker stages")
        return self.manifest.text.special_ids

    @cached_property
    def empty_transcript(self) -> NDArray[np.float32]:
        """The learned tokens of silence, [1, 256, 768]."""
        name, dims = "empty_transcript", self.manifest.dims
        value = self._arrays(self.manifest.constants, name)[name]
        shape = (1, dims.transcript_tokens, dims.cond_width)
        if value.shape != shape or value.dtype != np.float32 or not np.isfinite(value).all():
            raise BundleError(f"{name} must be finite float32 {shape}, got {value.shape}")
        return value.astype(np.float32, copy=False)

    @cached_property
    def plan_files(self) -> Mapping[str, PlanFile]:
        """The plans of this bundle's own, by name. Raises BundleError for a file that is none."""
        files = {n: read_plan_file(self.path(path)) for n, path in self.manifest.plans.items()}
        wrong = [f"{name!r} is {file.name!r}" for name, file in files.items() if file.name != name]
        if wrong:
            raise BundleError(f"plans that are named otherwise in their files: {', '.join(wrong)}")
        return files

    def guidance(self, cfg_scale: float | None) -> float:
        """What is given, checked; for None the model's own. Raises RequestError."""
        given = self.manifest.default_guidance if cfg_scale is None else cfg_scale
        return checked_guidance(given)

    def plan(self, name: str, *, cfg_scale: float) -> Plan | None:
        """A plan of this bundle's own, its rows for the nearest guidance; None if there is none."""
        file = self.plan_files.get(name)
        return None if file is None else file.nearest(cfg_scale)

    def plan_sha256(self, name: str) -> str | None:
        """Hash of the file of a plan of this bundle's own; None if there is none of that name."""
        path = self.manifest.plans.get(name)
        return None if path is None else self.manifest.files[path].sha256

    @property
    def student_plans(self) -> tuple[str, ...]:
        """Names of the plans that the model was distilled to; none for one that was not."""
        found = {name: file.model for name, file in self.plan_files.items()}
        return tuple(n for n, model in found.items() if model and model.kind == "student")

    def parity(self, stage: str) -> dict[str, NDArray[np.generic]]:
        """Inputs and reference outputs of a stage, by name."""
        if stage not in self.manifest.parity:
            raise BundleError(f"this bundle has no parity data of {stage!r}")
        return self._arrays(self.manifest.parity[stage])

    def _arrays(self, path: str, *needed: str) -> dict[str, NDArray[np.generic]]:
        try:
            _refuse_compressed(self.path(path))
            with np.load(self.path(path), allow_pickle=False) as arrays:
                found = dict(arrays)
        except _BROKEN_ARCHIVE as error:
            raise BundleError(f"{path} is no archive of arrays: {error}") from error
        missing = [name for name in needed if name not in found]
        if missing:
            raise BundleError(f"{path} lacks {', '.join(missing)}")
        return found

    def require_certificate(self) -> None:
        """Raise BundleError unless the certificate is there, matches the files, and passes."""
        certificate = self.manifest.certificate
        hint = "; export again, or pass allow_uncertified=True to run it anyway"
        if certificate is None:
            raise BundleError("this bundle has no parity certificate" + hint)
        for stage in self.manifest.graphs:
            if certificate.graphs.get(stage) != self.graph_digest(stage):
                raise BundleError(f"the certificate did not measure this {stage!r} graph" + hint)
        covered = {name.split("/")[0] for name in certificate.stages}
        uncovered = [stage for stage in self.manifest.graphs if stage not in covered]
        if uncovered:
            raise BundleError(f"the certificate says nothing of {', '.join(uncovered)}" + hint)
        failed = certificate.failed()
        if failed:
            raise BundleError(f"the certificate fails for {', '.join(failed)}" + hint)

    def require_on_device(self, library: str) -> None:
        """Raise BundleError if engines of a library missed their bounds on a GPU.

        Those that were not measured pass: what is known of them is the certificate.
        """
        for target, engines in self.manifest.engines.items():
            found = engines.on_device
            if engines.library == library and found is not None and found.failed():
                raise BundleError(
                    f"the engines for {target} are out of bounds on {found.device}: "
                    f"{', '.join(found.failed())}; build them again, measure them again with "
                    "omni-rt verify --device, or pass allow_uncertified=True"
                )

    def graph_digest(self, stage: str) -> str:
        """One digest over the files of a stage's graph."""
        return graph_digest(self.manifest.graphs[stage], self.manifest.files)

    def _text_file(self, part: str) -> Path:
        name = getattr(self.manifest.text, part)
        if name is None:
            raise BundleError(f"this bundle has no {part}: export it with its text files")
        return self.path(name)

    def _verify_files(self, progress: Progress | None) -> None:
        root = self.directory.resolve()
        total = self.manifest.size_bytes
        files = {p: spec for p, spec in self.manifest.files.items() if p not in self._absent}
        done = 0
        for relative, spec in files.items():
            path = self.path(relative)
            try:
                inside = root in path.resolve().parents
            except (OSError, RuntimeError) as error:  # a link to itself
                raise BundleError(f"{relative}: a link that leads nowhere: {error}") from error
            if not inside:
                raise BundleError(f"{relative}: a link out of the bundle")
            if not path.is_file():
                raise BundleError(f"{relative}: listed in the manifest but not there")
            size = path.stat().st_size
            if size != spec.size_bytes:
                raise BundleError(
                    f"{relative}: {size} bytes, expected {spec.size_bytes}: truncated?"
                )
        with ThreadPoolExecutor(max_workers=4) as pool:
            paths = [self.path(relative) for relative in files]
            for (relative, spec), digest in zip(
                files.items(), pool.map(sha256_of, paths), strict=True
            ):
                if digest != spec.sha256:
                    raise BundleError(f"{relative}: its sha256 is not the manifest's: changed?")
                done += spec.size_bytes
                if progress is not None:
                    progress(done, total)

    def _verify_graphs(self) -> None:
        """Ports as the contract says for these sizes, and weights in listed files alone."""
        for stage, graph in self.manifest.graphs.items():
            check_ports(stage, graph, self.manifest.dims)
            if graph.path in self._absent:
                continue
            listed = {PurePosixPath(path).name for path in graph.data}
            unlisted = external_files(self.path(graph.path)) - listed
            if unlisted:
                raise BundleError(f"{graph.path} takes weights from {', '.join(sorted(unlisted))}")

    def _verify_folds(self) -> None:
        graphs = self.manifest.graphs
        if {"context", "dit_step"} <= graphs.keys():
            ids = graphs["context"].fold_id, graphs["dit_step"].fold_id
            if ids[0] != ids[1]:
                raise BundleError(f"context and dit_step were folded differently: {ids}")

    def _verify_presets(self) -> None:
        """What presets were measured with is what the bundle has."""
        measured = self.manifest.presets
        if measured is None:
            return
        changed = [
            s for s in self.manifest.graphs if measured.graphs.get(s) != self.graph_digest(s)
        ]
        changed += [
            preset.plan
            for preset in measured.presets.values()
            if preset.plan_sha256 != self.plan_sha256(preset.plan)
        ]
        if changed:
            raise BundleError(
                f"presets were measured with another {', '.join(changed)}: remove `presets` from "
                f"{MANIFEST}, then measure them again with omni-rt measure-presets"
            )


def _refuse_compressed(path: Path) -> None:
    """Raise ValueError for a member that could grow: this project stores arrays as they are."""
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("its members are compressed")


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def graph_digest(graph: GraphSpec, files: Mapping[str, FileSpec]) -> str:
    """One digest over the files of a graph, from their listed hashes."""
    listed = "".join(files[path].sha256 for path in (graph.path, *graph.data))
    return hashlib.sha256(listed.encode()).hexdigest()
