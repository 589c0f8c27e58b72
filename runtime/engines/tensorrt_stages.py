"""TensorRT-RTX and TensorRT by stage: the step in the CUDA loop, every other plan on its own."""

from __future__ import annotations

from omni_rt.bundle import Bundle
from omni_rt.engines import Engine
from omni_rt.engines.tensorrt import CAPTURED, TensorRtEngine
from omni_rt.engines.tensorrt_library import CLASSIC, RTX, library_named
from omni_rt.engines.tensorrt_step import TensorRtStepEngine


def load_rtx(bundle: Bundle, stage: str, threads: int | None) -> Engine:
    """A stage of a bundle in TensorRT-RTX. Raises BundleError or EngineError."""
    return _loaded(bundle, stage, RTX)


def load_classic(bundle: Bundle, stage: str, threads: int | None) -> Engine:
    """A stage of a bundle in TensorRT. Raises BundleError or EngineError."""
    return _loaded(bundle, stage, CLASSIC)


def _loaded(bundle: Bundle, stage: str, name: str) -> Engine:
    plan = TensorRtEngine(bundle, stage, library=library_named(name), name=name)
    return TensorRtStepEngine(plan) if stage == CAPTURED else plan
