"""One graph → a plan, by TensorRT-RTX or TensorRT: the same calls of either, no GPU for the first.

Nothing newer than TensorRT 10.3 is called of `tensorrt`, which is what JetPack 6.1 has.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_rt.engines.checks import one_line
from omni_rt.engines.tensorrt_library import RTX, collector, library_named
from omni_rt.errors import ExportError
from omni_rt.export.engines.build_progress import Phases, monitor
from omni_rt.export.engines.compiled import Compiled, read_inspector, read_log

Sizes = Mapping[str, tuple[int, int, int]]  # dynamic dimension → fewest, usual, most


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A compiled graph."""

    data: bytes
    compiled: Compiled
    version: str  # of the library
    seconds: float


def compile_graph(
    path: Path,
    shapes: Mapping[str, Sequence[int | str]],
    profiles: Sequence[Sizes],
    *,
    library: str,
    compute_capability: str,
    captured: bool = False,
    timing_cache: Path | None = None,
    phases: Phases | None = None,
) -> Plan:
    """Compile an ONNX file, with one set of weights for all profiles.

    `shapes` are the graph's inputs with their dimensions, strings dynamic. A plan that is to be
    `captured` in a CUDA graph allocates nothing while it runs. `timing_cache` is read if it is
    there, and written. `phases` is told how far the library is, and may stop it. Raises
    EngineError if the library is missing, ExportError if it refuses the graph, the device, finds no
    kernel, or was stopped.
    """
    trt = library_named(library)
    logger = collector(trt, verbose=True)
    start = time.perf_counter()
    builder = trt.Builder(logger)
    network = _parsed(trt, builder, logger, path)
    config = builder_config(trt, builder)
    _aim_at(trt, config, library, compute_capability)
    if captured and library == RTX:
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    for sizes in profiles:
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, *_bounds(shape, sizes))
        config.add_optimization_profile(profile)
    cache = _with_timing_cache(config, timing_cache)
    phases = phases or Phases(lambda _: None)
    config.progress_monitor = monitor(trt, phases)
    data = builder.build_serialized_network(network, config)
    if data is None and phases.stopped:
        raise ExportError(f"{path.stem}: stopped while it was built")
    if data is None:
        raise ExportError(f"{path.stem}: {library} cannot build it: {_said(logger)}")
    _keep_timing_cache(cache, timing_cache)
    plan = bytes(data)
    compiled = described(trt, logger, plan, profiles=len(profiles))
    return Plan(
        data=plan,
        compiled=compiled,
        version=str(trt.__version__),
        seconds=time.perf_counter() - start,
    )


def _parsed(trt: Any, builder: Any, logger: Any, path: Path) -> Any:
    """The network of a graph's file. Raises ExportError with what the parser says."""
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = [
            one_line(ValueError(parser.get_error(i).desc())) for i in range(parser.num_errors)
        ]
        raise ExportError(f"{path.stem}: the parser refuses it: {'; '.join(errors[:2])}")
    return network


def builder_config(trt: Any, builder: Any) -> Any:
    """How every stage is compiled: all layers described, and fp32 products in fp32.

    By default they may be in TF32, which has no more digits than fp16: what stays in fp32 (the
    log-mel and its projection, transcripts) is there for its digits.
    """
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    return config


def _aim_at(trt: Any, config: Any, library: str, compute_capability: str) -> None:
    """Compile for a device: TensorRT-RTX for any, TensorRT for the one that is here."""
    if library != RTX:
        return
    name = "SM" + compute_capability.replace(".", "")
    device = getattr(trt.ComputeCapability, name, None)
    if device is None:
        offered = sorted(n for n in dir(trt.ComputeCapability) if n.startswith("SM"))
        raise ExportError(
            f"{library} {trt.__version__} compiles for {', '.join(offered)}, not for {name}"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(device, 0)


def _bounds(shape: Sequence[int | str], sizes: Sizes) -> list[tuple[int, ...]]:
    """Smallest, usual and largest shape of an input."""
    return [
        tuple(size if isinstance(size, int) else sizes[size][i] for size in shape) for i in range(3)
    ]


def _with_timing_cache(config: Any, path: Path | None) -> Any:
    """Measurements of earlier builds, so that the same kernels are chosen, and faster."""
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")  # of another device or version, or truncated
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _keep_timing_cache(cache: Any, path: Path | None) -> None:
    if cache is not None and path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.partial")
        draft.write_bytes(bytes(cache.serialize()))
        draft.replace(path)


def described(trt: Any, logger: Any, plan: bytes, *, profiles: int) -> Compiled:
    """The plan's layers and the memory of every profile, from the log of its build.

    What is not there the plan itself is asked for, which takes its GPU. Raises ExportError if
    neither says it.
    """
    try:
        compiled = read_log("\n".join(logger.lines))
        told = len(compiled.activation_bytes)
        if told != profiles:
            raise ExportError(f"the log tells the memory of {told} profiles of {profiles}")
        return compiled
    except ExportError:
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        if engine is None:
            raise
    inspector = engine.create_engine_inspector()
    listed = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    size_of = engine.get_device_memory_size_for_profile_v2  # since 10.1, and TensorRT-RTX's
    return Compiled(
        layers=read_inspector(listed),
        activation_bytes=tuple(int(size_of(i)) for i in range(engine.num_optimization_profiles)),
        weight_bytes=len(plan),  # at most: its kernels are in it too
    )


def _said(logger: Any) -> str:
    """The library's last error as one line."""
    return one_line(ValueError(logger.problems[-1])) if logger.problems else "it does not say why"
