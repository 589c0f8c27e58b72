"""Baselines of how long stages take on a device, and whether they have become slower.

A file per device, written by `omni-rt bench --save`. What was timed with other settings or of
another model is refused; another device has no baseline here, which is no failure.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from omni_rt import strict_json
from omni_rt.bench import BenchReport
from omni_rt.doctor import gpu_names
from omni_rt.engines.processor import processor_info
from omni_rt.errors import BundleError, RequestError
from omni_rt.manifest import Manifest
from omni_rt.timing import WARM_UP_RUNS, Timing
from omni_rt.whole_file import draft_of

SCHEMA = 2
LOOP = "loop, one step"
_MAX_FILE_BYTES = 1 << 20
# Of engines that are called otherwise than what is installed for them.
_PACKAGES: Mapping[str, str] = {
    "onnxruntime_cuda": "onnxruntime-gpu",
    "torch_cuda": "torch",
    "torch_cuda_fp8": "torch",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What was timed where, and how: everything that a comparison must hold fixed."""

    schema: int
    device: str
    engine: str
    threads: int | None  # of the processor; None: all
    libraries: Mapping[str, str]  # package → version
    model: str  # digest of the sizes and of each stage's precision
    warm_up_runs: int
    stages: Mapping[str, Timing]  # and LOOP
    digest: str = ""  # of all the above: a file edited by hand is noticed


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A stage then and now."""

    stage: str
    before: Timing
    after: Timing

    @property
    def slowdown(self) -> float:
        """Median now over median then."""
        return self.after.p50_s / self.before.p50_s


def this_device() -> str:
    """The processor's name and how many threads it has, and the GPUs' names if there are any."""
    name = processor_info().get("model name", platform.processor() or platform.machine())
    gpus = gpu_names()
    return f"{name.strip()}, {os.cpu_count()} threads" + (f", {gpus}" if gpus else "")


def baseline_of(report: BenchReport, manifest: Manifest) -> Baseline:
    """A benchmark of a bundle on this device as a baseline."""
    stages = {name: timing for name, timing in report.stages.items() if name != "dit_step"}
    if report.step is not None:
        stages[LOOP] = report.step
    unsigned = Baseline(
        schema=SCHEMA,
        device=this_device(),
        engine=report.engine,
        threads=report.threads,
        libraries=_libraries(report.engine),
        model=_model_digest(manifest),
        warm_up_runs=WARM_UP_RUNS,
        stages=stages,
    )
    return replace(unsigned, digest=digest_of(unsigned))


def _libraries(engine: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("omni_rt", "numpy", _PACKAGES.get(engine, engine)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _model_digest(manifest: Manifest) -> str:
    """What decides how long a model takes: not the values of its weights."""
    precisions = {stage: graph.precision for stage, graph in manifest.graphs.items()}
    return _sha256([strict_json.to_json(manifest.dims), precisions])[:16]


def digest_of(baseline: Baseline) -> str:
    """What `digest` must be."""
    return _sha256(strict_json.to_json(replace(baseline, digest="")))


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_of(path: Path, device: str) -> Path:
    """The device's file in a folder of baselines; a path that is no folder as it is."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return path / f"{slug}.json" if path.is_dir() else path


def save(baseline: Baseline, path: Path) -> Path:
    """Write a baseline to a file, or into a folder under its device's name; where it is now.

    Raises RequestError if it cannot be written.
    """
    file = file_of(path, baseline.device)
    text = json.dumps(strict_json.to_json(baseline), indent=1) + "\n"
    with draft_of(file) as draft:
        draft.write_text(text, encoding="utf-8")
    return file


def read(path: Path) -> Baseline:
    """The baseline in a file. Raises RequestError if it is none, or was changed since."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise RequestError(f"{path} is too large to be a latency baseline")
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = strict_json.parse(Baseline, raw, where="baseline")
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    except (BundleError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} is no latency baseline: {error}") from error
    if found.schema != SCHEMA:
        raise RequestError(f"{path} has schema {found.schema}, expected {SCHEMA}: save it again")
    if found.digest != digest_of(found):
        raise RequestError(f"{path} was changed after it was saved: save it again")
    if not all(math.isfinite(t.p50_s) and t.p50_s > 0 for t in found.stages.values()):
        raise RequestError(f"{path} holds a median that is no duration")
    return found


def for_device(path: Path, device: str) -> Baseline | None:
    """The device's baseline in a file or folder; None if it has none there.

    Raises RequestError if there is nothing at `path`, or what is there is no baseline.
    """
    if not path.exists():
        raise RequestError(f"no baseline at {path}: make one with omni-rt bench --save")
    file = file_of(path, device)
    if not file.exists():
        return None
    found = read(file)
    return found if found.device == device else None


def changes(before: Baseline, after: Baseline) -> list[Change]:
    """Stage by stage. Raises RequestError if the two were not timed alike."""
    differing = [
        f"{name} {old!r} then, {new!r} now"
        for name, old, new in (
            ("device", before.device, after.device),
            ("engine", before.engine, after.engine),
            ("threads", before.threads, after.threads),
            ("warm-up runs", before.warm_up_runs, after.warm_up_runs),
            ("model", before.model, after.model),
            ("stages", sorted(before.stages), sorted(after.stages)),
        )
        if old != new
    ]
    if differing:
        raise RequestError("the baseline was timed otherwise: " + "; ".join(differing))
    return [
        Change(stage=stage, before=timing, after=after.stages[stage])
        for stage, timing in before.stages.items()
    ]


def slower(found: list[Change], max_slowdown: float) -> list[Change]:
    """What takes more than `max_slowdown` times as long. Raises RequestError for one below 1."""
    if not (math.isfinite(max_slowdown) and max_slowdown >= 1):
        raise RequestError(f"max_slowdown must be 1 or more, got {max_slowdown}")
    return [change for change in found if change.slowdown > max_slowdown]


def other_libraries(before: Baseline, after: Baseline) -> list[str]:
    """Packages whose version is not the baseline's: what may explain a change."""
    return [
        f"{package} {before.libraries.get(package, 'none')} → {now}"
        for package, now in after.libraries.items()
        if before.libraries.get(package) != now
    ]
