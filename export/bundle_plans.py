"""Plans put into a bundle: a copy of it, or the bundle itself, which is whole at every moment."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from omni_rt.bundle import Bundle, sha256_of
from omni_rt.errors import ExportError, RequestError
from omni_rt.export.pack import copy_files, new_directory
from omni_rt.manifest import (
    FileSpec,
    Manifest,
    read_manifest,
    replace_manifest,
    write_manifest,
)
from omni_rt.plan_file import PlanFile, merged, plan_text
from omni_rt.plans import Model
from omni_rt.preset_record import PresetRecord
from omni_rt.whole_file import draft_of

_FOLDER = "plans"
_UNFITTED = "euler-100"  # the default plan where the source's does not hold


def model_of(bundle: Bundle, kind: Literal["fitted", "student"]) -> Model:
    """What rows hold for that are fitted to this bundle's step, or that it was distilled to."""
    return Model(
        kind=kind,
        digest=bundle.graph_digest("dit_step"),
        precision=bundle.graph("dit_step").precision,
    )


def put_plans(bundle: Bundle, files: Sequence[PlanFile]) -> None:
    """Add plans to a bundle where it lies; tables of old ones for other guidance stay.

    Presets that were measured with a plan that is replaced are not measured any more: the record
    goes, and with it the default that was chosen by it.

    A file's name has its content's hash in it, and the manifest is replaced last: whoever opens the
    bundle meanwhile, or after a kill, finds the old one or the new. Raises RequestError for what
    the file system says, ExportError if the model was replaced since the bundle was opened.
    """
    now = Bundle(bundle.directory, read_manifest(bundle.directory))
    if _digest(now) != _digest(bundle):
        raise ExportError(f"{bundle.directory} has another model now: fit to that one")
    written = {f.name: _written(now, merged(now.plan_files.get(f.name), f)) for f in files}
    plans = {**now.manifest.plans, **written}
    replaced = set(now.manifest.plans.values()) - set(plans.values())
    listed = {path: spec for path, spec in now.manifest.files.items() if path not in replaced}
    listed |= {path: _listed(now.path(path)) for path in written.values()}
    manifest = replace(now.manifest, plans=plans, files=dict(sorted(listed.items())))
    if now.manifest.presets is not None and _measured(now.manifest.presets) & written.keys():
        manifest = unmeasured(manifest, student_plans=now.student_plans)
    replace_manifest(manifest, now.directory)
    for path in replaced:
        now.path(path).unlink(missing_ok=True)


def _measured(record: PresetRecord) -> set[str]:
    """Names of the plans that presets were measured with."""
    return {preset.plan for preset in record.presets.values()}


def unmeasured(manifest: Manifest, *, student_plans: Sequence[str]) -> Manifest:
    """A manifest without measured presets; the default is what it is before they are."""
    default = student_plans[0] if student_plans else _UNFITTED
    return replace(manifest, presets=None, default_plan=default)


def _digest(bundle: Bundle) -> str | None:
    """Of the step's files; None without one, of which analytic plans are all there can be."""
    return bundle.graph_digest("dit_step") if "dit_step" in bundle.manifest.graphs else None


def _written(bundle: Bundle, file: PlanFile) -> str:
    """Write a plan file. Returns its path inside the bundle."""
    text = plan_text(file).encode()
    path = f"{_FOLDER}/{file.name}.{hashlib.sha256(text).hexdigest()[:12]}.json"
    target = bundle.path(path)
    try:
        target.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot write {target.parent}: {error.strerror}") from error
    with draft_of(target) as draft:
        draft.write_bytes(text)
    return path


def _listed(path: Path) -> FileSpec:
    return FileSpec(sha256=sha256_of(path), size_bytes=path.stat().st_size)


def copy_with_plans(
    bundle: Bundle, files: Sequence[PlanFile], out: Path, *, overwrite: bool
) -> None:
    """Write a copy of a bundle with plans added. Raises ExportError as `new_directory` does."""
    with new_directory(out, needed_bytes=bundle.manifest.size_bytes, overwrite=overwrite) as draft:
        copy_files(bundle, draft)
        write_manifest(bundle.manifest, draft)
        put_plans(Bundle(draft, bundle.manifest), files)


def carry_plans(source: Bundle, rounded: Bundle) -> tuple[Manifest, tuple[str, ...]]:
    """Put the source's plans into its rounded bundle, but for those that no longer hold.

    A student's belongs to its weights whatever their precision; rows that were fitted to the
    unrounded step do not hold for the rounded one. Returns the new manifest, whose default plan is
    one that holds, and the names of what was left out.
    """
    files = source.plan_files
    if not files:
        return rounded.manifest, ()
    put_plans(rounded, [kept for file in files.values() if (kept := _carried(file, rounded))])
    manifest = read_manifest(rounded.directory)
    lost = tuple(sorted(files.keys() - manifest.plans.keys()))
    if manifest.default_plan in lost:
        manifest = replace(manifest, default_plan=_UNFITTED)
        write_manifest(manifest, rounded.directory)
    return manifest, lost


def _carried(file: PlanFile, rounded: Bundle) -> PlanFile | None:
    if file.model is None:
        return file
    if file.model.kind == "student":
        return replace(file, model=model_of(rounded, "student"))
    return None
