"""What this machine can run, and what is missing for the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from omni_rt.engines.processor import processor_flags, processor_info
from omni_rt.engines.registry import engine_loader, engine_names
from omni_rt.errors import EngineError

_BASE = ("numpy", "onnxruntime", "soundfile", "soxr", "tokenizers", "jieba", "pypinyin")
_EXPORT = ("torch", "onnx", "onnx-ir", "onnxscript", "safetensors")
_VECTOR_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    advice: str = ""  # empty: nothing to do


def examine() -> list[Finding]:
    """Look at the machine and the installed packages; changes nothing, loads no model."""
    return [
        Finding(what="Python", found=platform.python_version()),
        _processor(),
        _memory(),
        _packages("run bundles", _BASE, "pip install omni_rt"),
        _core(),
        _engines(),
        _mp3(),
        _packages("export checkpoints", _EXPORT, "pip install 'omni_rt[export]'"),
        _packages("read video", ("av", "pillow"), "pip install 'omni_rt[video]'"),
        _gpu(),
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages(purpose: str, names: tuple[str, ...], install: str) -> Finding:
    versions = {name: _version(name) for name in names}
    missing = [name for name, version in versions.items() if version is None]
    found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    advice = f"missing {', '.join(missing)}: {install}" if missing else ""
    return Finding(what=f"packages to {purpose}", found=found or "none", advice=advice)


def _processor() -> Finding:
    info = processor_info()
    vector = " ".join(flag for flag in _VECTOR_FLAGS if flag in processor_flags(info))
    name = info.get("model name", platform.machine()).strip()
    return Finding(
        what="processor", found=f"{name}, {os.cpu_count()} threads, {vector}".rstrip(", ")
    )


def _memory() -> Finding:
    page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    total = page * pages
    advice = "the official model in fp32 needs 16 GB; use memory='staged'" if total < 16e9 else ""
    free = shutil.disk_usage(Path.cwd()).free
    return Finding(
        what="memory, free disk", found=f"{total / 1e9:.0f} GB, {free / 1e9:.0f} GB", advice=advice
    )


def _core() -> Finding:
    found = importlib.util.find_spec("omni_rt._core") is not None
    advice = "" if found else "omni_rt._core is missing: reinstall with a C++20 compiler"
    return Finding(what="C++ loop", found="CPU" if found else "none", advice=advice)


def _engines() -> Finding:
    """What `--engine` can be on this machine."""
    there, advice = [], []
    for name in engine_names():
        try:
            engine_loader(name)
            there.append(f"{name} {_version(name) or ''}".rstrip())
        except EngineError as error:
            advice.append(str(error))
    return Finding(what="engines", found=", ".join(there) or "none", advice="; ".join(advice))


def _mp3() -> Finding:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        return Finding(what="audio files", found="none", advice=f"{error}: pip install soundfile")
    able = "MP3" in soundfile.available_formats()
    advice = "" if able else "mp3 needs libsndfile 1.1 or newer: pip install -U soundfile"
    return Finding(what="audio files", found=soundfile.__libsndfile_version__, advice=advice)


def gpu_names() -> str | None:
    """Names and memory of NVIDIA's GPUs here; None without their driver, empty if it is silent."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(result.stdout.strip().splitlines())


def _gpu() -> Finding:
    names = gpu_names()
    if names is None:
        return Finding(what="NVIDIA GPU", found="none: bundles run on the CPU")
    return Finding(what="NVIDIA GPU", found=names or "nvidia-smi does not answer")
