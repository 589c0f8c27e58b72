"""What a bundle's compiled engines do on the GPU that they are for: measured, and kept in it.

An engine that was built ahead of time is proved (the compiler says what it computes in) and its
rounding is emulated (the same graph on a processor). Only the GPU itself says what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from omni_rt.bundle import Bundle
from omni_rt.engines.cuda_driver import CudaDriver
from omni_rt.engines.plan_checks import engines_for
from omni_rt.engines.registry import AUTO
from omni_rt.engines.tensorrt_library import INSTALL, library_named
from omni_rt.errors import BundleError, EngineError, RequestError
from omni_rt.manifest import (
    Measurement,
    OnDevice,
    TargetEngines,
    read_manifest,
    replace_manifest,
)
from omni_rt.verify import Loader, measurements


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """The engines of a bundle that run on this machine's GPU."""

    library: str  # name of their engine, for `engine_loader`
    target: str
    engines: TargetEngines
    device: str
    driver: str


def engines_here(bundle: Bundle, engine: str = AUTO, *, driver: Any = None) -> Here:
    """Which of a bundle's engines run here: those of the library named, or of one installed.

    Raises RequestError for an engine that is not compiled; EngineError without a GPU, for another
    one, without the library or with another version of it, and where nothing was compiled.
    """
    library = _library(bundle, engine)
    module = library_named(library)
    gpu = CudaDriver() if driver is None else driver
    target, engines = engines_for(bundle, library, str(module.__version__), gpu.compute_capability)
    return Here(
        library=library, target=target, engines=engines, device=gpu.name, driver=gpu.version
    )


def _library(bundle: Bundle, engine: str) -> str:
    if engine in INSTALL:
        return engine
    if engine != AUTO:
        raise RequestError(
            f"--device measures compiled engines, of {' or '.join(INSTALL)}: {engine!r} is none"
        )
    built = list(dict.fromkeys(e.library for e in bundle.manifest.engines.values()))
    if not built:
        raise EngineError(
            f"this bundle has no engines: omni-rt build {bundle.directory} --target T --out NEW"
        )
    installed = [name for name in built if find_spec(name) is not None]
    return (installed or built)[0]


def measured_here(bundle: Bundle, here: Here, loader: Loader) -> OnDevice:
    """Every stage that was compiled, against what the bundle's parity files hold."""
    stages: dict[str, Measurement] = {}
    whole: dict[str, Measurement] = {}
    for _, of_stage, end_to_end in measurements(bundle, loader, stages=here.engines.stages):
        stages |= of_stage
        whole |= end_to_end
    return OnDevice(device=here.device, driver=here.driver, stages=stages, end_to_end=whole)


def keep(bundle: Bundle, here: Here, found: OnDevice) -> None:
    """Write what was measured into the bundle's manifest, in place of what was there.

    The bundle's id changes with it. Raises BundleError if its engines were replaced meanwhile,
    RequestError for what the file system says.
    """
    now = read_manifest(bundle.directory)
    if now.engines != bundle.manifest.engines:
        raise BundleError(f"{bundle.directory} has other engines now: verify those")
    engines = {**now.engines, here.target: replace(here.engines, on_device=found)}
    replace_manifest(replace(now, engines=engines), bundle.directory)
