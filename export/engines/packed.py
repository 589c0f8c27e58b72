"""A bundle with engines → what one kind of device needs of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from omni_rt.bundle import Bundle
from omni_rt.errors import BundleError
from omni_rt.export.pack import copy_files, new_directory
from omni_rt.manifest import Manifest, write_manifest

Progress = Callable[[str], None]


def pack(
    source: Path,
    out: Path,
    target: str,
    *,
    engines_only: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda _: None,
) -> Manifest:
    """Write a copy of a bundle with the engines of one target. Returns its manifest.

    engines_only: without graphs and their weights, which only ONNX Runtime, OpenVINO, torch and
    `build` read. They stay in the manifest with their hashes, so that engines and certificate are
    still held to the graphs that they belong to. Files for `verify` stay.

    Raises BundleError for a bundle without engines for the target, or, with engines_only, with
    engines for some of its stages alone; ExportError for a place that cannot be written.
    """
    bundle = Bundle.open(source)
    packed = _packed(bundle, target, engines_only=engines_only)
    with new_directory(out, needed_bytes=packed.size_bytes, overwrite=overwrite) as draft:
        progress(f"copying {packed.size_bytes / 1e6:.1f} MB")
        absent = set(packed.left_out)
        copy_files(bundle, draft, keep=lambda path: path in packed.files and path not in absent)
        write_manifest(packed, draft)
    return packed


def _packed(bundle: Bundle, target: str, *, engines_only: bool) -> Manifest:
    manifest = bundle.manifest
    if target not in manifest.engines:
        have = ", ".join(manifest.engines) or "none"
        raise BundleError(
            f"no engines for {target!r} (there are {have}): "
            f"omni-rt build {bundle.directory} --target {target} --out NEW"
        )
    kept = manifest.engines[target]
    lacking = manifest.graphs.keys() - kept.stages.keys()
    if engines_only and lacking:
        raise BundleError(
            f"no engines for {target} of {', '.join(sorted(lacking))}, which without their graphs "
            "could not be run: build them too, or pack without --engines-only"
        )
    others = {
        spec.path
        for name, engines in manifest.engines.items()
        for spec in engines.stages.values()
        if name != target
    }
    graphs = {path for graph in manifest.graphs.values() for path in (graph.path, *graph.data)}
    return replace(
        manifest,
        engines={target: kept},
        files={path: spec for path, spec in manifest.files.items() if path not in others},
        left_out=tuple(sorted(graphs)) if engines_only else manifest.left_out,
    )
