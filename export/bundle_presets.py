"""Measured presets put into a bundle, with the default that follows from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from omni_rt.bundle import Bundle
from omni_rt.errors import ExportError
from omni_rt.export.pack import copy_files, new_directory
from omni_rt.manifest import Manifest, read_manifest, replace_manifest, write_manifest
from omni_rt.preset_record import PresetRecord


def put_presets(bundle: Bundle, record: PresetRecord) -> None:
    """Write the record into a bundle where it lies; its default preset's plan becomes the default.

    Raises ExportError if graphs or plans were replaced since the bundle was opened.
    """
    now = read_manifest(bundle.directory)
    if (now.graphs, now.plans, now.files) != _measured(bundle):
        raise ExportError(f"{bundle.directory} was changed meanwhile: measure its presets again")
    replace_manifest(_with(now, record), bundle.directory)


def _measured(bundle: Bundle) -> tuple[object, ...]:
    manifest = bundle.manifest
    return manifest.graphs, manifest.plans, manifest.files


def _with(manifest: Manifest, record: PresetRecord) -> Manifest:
    default = record.presets[record.default].plan
    return replace(manifest, presets=record, default_plan=default)


def copy_with_presets(bundle: Bundle, record: PresetRecord, out: Path, *, overwrite: bool) -> None:
    """Write a copy of a bundle with the record. Raises ExportError as `new_directory` does."""
    with new_directory(out, needed_bytes=bundle.manifest.size_bytes, overwrite=overwrite) as draft:
        copy_files(bundle, draft)
        write_manifest(_with(bundle.manifest, record), draft)
