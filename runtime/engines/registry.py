"""Which library runs a bundle's graphs: chosen by name, or brought along as a function."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import NamedTuple, Protocol

from omni_rt.bundle import Bundle
from omni_rt.engines import Engine
from omni_rt.engines.checks import one_line
from omni_rt.engines.gpu import Gpu, GpuLoader, check_gpu, ordinal_of
from omni_rt.engines.tensorrt_library import CLASSIC, INSTALL, RTX
from omni_rt.errors import EngineError, RequestError

AUTO, _DEFAULT = "auto", "onnxruntime"
GROUP = "omni_rt.engines"  # of entry points: name → "module:function", a LoadEngine


class _BuiltIn(NamedTuple):
    place: str
    package: str
    install: str


_ORT, _ORT_CUDA, _OPENVINO = "onnxruntime", "onnxruntime_cuda", "openvino"
_BUILT_IN: Mapping[str, _BuiltIn] = {
    _ORT: _BuiltIn("omni_rt.engines.ort:load_engine", _ORT, "pip install onnxruntime"),
    _ORT_CUDA: _BuiltIn(
        "omni_rt.engines.ort:load_cuda_engine", _ORT, "pip install onnxruntime-gpu"
    ),
    _OPENVINO: _BuiltIn(
        "omni_rt.engines.openvino:load_engine", _OPENVINO, "pip install 'omni_rt[openvino]'"
    ),
    RTX: _BuiltIn("omni_rt.engines.tensorrt_stages:load_rtx", RTX, INSTALL[RTX]),
    CLASSIC: _BuiltIn("omni_rt.engines.tensorrt_stages:load_classic", CLASSIC, INSTALL[CLASSIC]),
}


class LoadEngine(Protocol):
    """Loads one stage of a bundle."""

    def __call__(self, bundle: Bundle, stage: str, threads: int | None, /) -> Engine:
        """The stage's engine, on so many threads of the processor (None: all).

        Raises BundleError if the bundle lacks the stage, EngineError if it cannot be loaded.
        """
        ...


def engine_names() -> tuple[str, ...]:
    """What `engine_loader` knows by name, installed or not."""
    return tuple(dict.fromkeys([*_BUILT_IN, *(entry.name for entry in _plug_ins())]))


def resolved(name: str) -> str:
    """The engine that a name stands for: "auto" is ONNX Runtime."""
    return _DEFAULT if name == AUTO else name


def engine_loader(engine: str | LoadEngine) -> LoadEngine:
    """How an engine loads stages; a function of that kind is returned as it is.

    Raises RequestError for an unknown name, EngineError if its library is not installed.
    """
    if callable(engine):
        return engine
    if isinstance(engine, str):
        name = resolved(engine)
        if name in _BUILT_IN:
            return _built_in(name)
        for entry in _plug_ins():
            if entry.name == name:
                return _plugged_in(entry)
    known = ", ".join((AUTO, *engine_names()))
    raise RequestError(f"engine must be one of {known}, or a function, got {engine!r:.80}")


def placed(load: LoadEngine, device: str, gpu: Gpu) -> LoadEngine:
    """The engine on a device, "auto", "cpu", "cuda" or "cuda:N", with what else `gpu` says.

    Raises RequestError for a device or options that the engine does not have.
    """
    ordinal = ordinal_of(device)
    check_gpu(gpu)
    if isinstance(load, GpuLoader):
        if device == "cpu":
            raise RequestError(
                f"engine {load.name!r} runs on a GPU, device is 'cpu': leave it out, or take "
                "engine='onnxruntime'"
            )
        return load.on(replace(gpu, ordinal=ordinal or 0))
    if ordinal is not None or gpu != Gpu():
        asked = f"device {device!r}" if ordinal is not None else "a CUDA graph or stream"
        raise RequestError(
            f"{asked} is for engines that run on a GPU (tensorrt_rtx, tensorrt, torch_cuda, "
            "onnxruntime_cuda), and this one does not"
        )
    return load


def _plug_ins() -> Iterator[EntryPoint]:
    return iter(entry_points(group=GROUP))


def _built_in(name: str) -> LoadEngine:
    place, package, install = _BUILT_IN[name]
    if find_spec(package) is None:
        raise EngineError(f"engine {name!r}: {package} is not installed: {install}")
    module, _, function = place.partition(":")
    library = import_module(module)
    if name == _ORT_CUDA:  # one package, with CUDA or without
        library.check_cuda()
    load: LoadEngine = getattr(library, function)
    return load


def _plugged_in(entry: EntryPoint) -> LoadEngine:
    try:
        load = entry.load()
    except ModuleNotFoundError as error:
        missing = error.name or "a package"
        install = _install(entry, missing)
        raise EngineError(
            f"engine {entry.name!r}: {missing} is not installed: {install}"
        ) from error
    except Exception as error:  # someone else's code
        raise EngineError(f"engine {entry.name!r} cannot be loaded: {one_line(error)}") from error
    if not callable(load):
        raise EngineError(f"engine {entry.name!r}: {entry.value} is no function")
    found: LoadEngine = load
    return found


def _install(entry: EntryPoint, package: str) -> str:
    """What to install for a plug-in that lacks a package: its extra with it, or the package."""
    owner = entry.dist
    for needed in () if owner is None else owner.requires or ():
        extra = re.search(r"extra\s*==\s*['\"]([\w.-]+)", needed)
        if owner and extra and re.match(rf"{re.escape(package)}(?![\w.-])", needed):
            return f"pip install '{owner.name}[{extra[1]}]'"
    return f"pip install {package}"
