"""TensorRT-RTX and TensorRT by stage: the step in the CUDA loop, every other plan on its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from omni_rt.bundle import Bundle
from omni_rt.engines import Engine
from omni_rt.engines.cuda_driver import CudaDriver
from omni_rt.engines.gpu import Gpu, GpuLoader, GpuMemory, StageNeeds
from omni_rt.engines.plan_checks import engines_for
from omni_rt.engines.tensorrt import CAPTURED, TensorRtEngine
from omni_rt.engines.tensorrt_library import CLASSIC, RTX, library_named
from omni_rt.engines.tensorrt_step import TensorRtStepEngine
from omni_rt.manifest import EngineSpec, GraphSpec, TensorSpec

_PORT_BYTES = {"float32": 2, "int64": 8, "bool": 1}  # at least: plans may keep a port in fp32


def _loaded(bundle: Bundle, stage: str, threads: int | None, gpu: Gpu, *, name: str) -> Engine:
    """A stage of a bundle on a GPU. Raises BundleError or EngineError."""
    library, driver = library_named(name), CudaDriver(ordinal=gpu.ordinal)
    plan = TensorRtEngine(bundle, stage, library=library, name=name, driver=driver)
    return TensorRtStepEngine(plan, gpu) if stage == CAPTURED else plan


def _memory(bundle: Bundle, ordinal: int, *, name: str) -> GpuMemory:
    """What the manifest says of the engines for this GPU. Raises EngineError if there are none."""
    driver, version = CudaDriver(ordinal=ordinal), str(library_named(name).__version__)
    driver.use()
    _, engines = engines_for(bundle, name, version, driver.compute_capability)
    free, total = driver.memory_bytes()
    stages = {stage: _needs(spec, bundle.graph(stage)) for stage, spec in engines.stages.items()}
    return GpuMemory(name=driver.name, free_bytes=free, total_bytes=total, stages=stages)


def _needs(spec: EngineSpec, graph: GraphSpec) -> StageNeeds:
    """Weights, and by profile the compiler's activation memory with what goes in and out."""
    runs = [
        profile.activation_bytes
        + _port_bytes((*graph.inputs, *graph.outputs), {n: s[2] for n, s in profile.sizes.items()})
        for profile in spec.profiles
    ]
    return StageNeeds(
        weights=spec.weight_bytes, least=min(runs, default=0), most=max(runs, default=0)
    )


def _port_bytes(ports: Iterable[TensorSpec], sizes: Mapping[str, int]) -> int:
    """Of the ports whose sizes a profile tells."""
    total = 0
    for port in ports:
        size = _PORT_BYTES[port.dtype]
        for length in port.shape:
            size *= sizes.get(length, 0) if isinstance(length, str) else length
        total += size
    return total


def _loader(name: str) -> GpuLoader:
    return GpuLoader(name=name, load=partial(_loaded, name=name), look=partial(_memory, name=name))


load_rtx, load_classic = _loader(RTX), _loader(CLASSIC)
