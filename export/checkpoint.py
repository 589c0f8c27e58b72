"""Checkpoint files as a lazy mapping: shapes first, one tensor at a time afterwards.

Nothing is unpickled but tensors (`weights_only`), and files are memory-mapped, so that a 21 GB
checkpoint needs no 21 GB of memory.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from omni_rt.bundle import sha256_of
from omni_rt.errors import ExportError

THINKER_MARK = "thinker."
THINKER_PREFIX = "conditioner.conditioners.omni_prompt.model."
_OTHER_PARTS = ("talker.", "token2wav.")  # of a Qwen2.5-Omni folder; the model never uses them


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyTensor:
    """A tensor's shape now, its values on demand."""

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Tensor]

    def float32(self) -> Tensor:
        """The values as contiguous fp32 (upcasting is exact)."""
        return self.load().to(torch.float32).contiguous()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The model's tensors by official name, the thinker's by their name below `thinker.`."""

    model: Mapping[str, LazyTensor]
    thinker: Mapping[str, LazyTensor]
    path: Path

    def sha256(self) -> str:
        """Digest of the checkpoint file, for the bundle's provenance."""
        return sha256_of(self.path)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open an official `.ckpt` or `.safetensors` file.

    Raises ExportError if it is missing, truncated, or a pickle of anything but tensors.
    """
    tensors = _open_tensors(path)
    model = {k: v for k, v in tensors.items() if not k.startswith(THINKER_PREFIX)}
    thinker = _thinker_names({k: v for k, v in tensors.items() if k.startswith(THINKER_PREFIX)})
    return Checkpoint(model=model, thinker=thinker, path=path)


def open_thinker_folder(folder: Path) -> dict[str, LazyTensor]:
    """The thinker's tensors of a Hugging Face folder (old and new names), all shards."""
    shards = sorted(folder.glob("*.safetensors"))
    tensors: dict[str, LazyTensor] = {}
    for shard in shards:
        tensors |= _open_tensors(shard)
    return _thinker_names({k: v for k, v in tensors.items() if not k.startswith(_OTHER_PARTS)})


def _open_tensors(path: Path) -> dict[str, LazyTensor]:
    if not path.is_file():
        raise ExportError(f"checkpoint: no file at {path}")
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)


def _open_safetensors(path: Path) -> dict[str, LazyTensor]:
    try:
        file = safe_open(path, framework="pt")
        keys = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ExportError(f"checkpoint: {path} is no whole safetensors file: {error}") from error

    def lazy(key: str) -> LazyTensor:
        entry = file.get_slice(key)
        return LazyTensor(
            shape=tuple(entry.get_shape()),
            dtype=str(entry.get_dtype()),
            load=lambda: file.get_tensor(key),
        )

    return {key: lazy(key) for key in keys}


def _open_pickle(path: Path) -> dict[str, LazyTensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"checkpoint: {path} holds more than tensors; refusing to unpickle it"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ExportError(f"checkpoint: {path} is damaged or truncated: {_line(error)}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ExportError(f'checkpoint: {path} must hold {{"state_dict": tensors}}')
    return {key: _in_memory(value) for key, value in state.items()}


def _in_memory(value: Tensor) -> LazyTensor:
    return LazyTensor(
        shape=tuple(value.shape), dtype=str(value.dtype).removeprefix("torch."), load=lambda: value
    )


def _line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:200]


def _thinker_names(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Names below `thinker.` in the layout of transformers 5.3 (spec THINKER §1)."""
    names = {key.rsplit(THINKER_MARK, 1)[-1]: value for key, value in tensors.items()}
    if not any(name.startswith("model.language_model.") for name in names):
        return names
    return {_old_name(name): value for name, value in names.items()}


def _old_name(name: str) -> str:
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    for tower in ("audio_tower.", "visual."):
        if name.startswith("model." + tower):
            return name.removeprefix("model.")
    return name


def check_names_and_shapes(
    found: Mapping[str, LazyTensor], wanted: Mapping[str, tuple[int, ...]], *, what: str
) -> None:
    """One ExportError listing every unknown, missing and misshaped tensor, or none."""
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"unknown {name}" for name in found if name not in wanted]
    problems += [
        f"{name} has shape {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    if problems:
        raise ExportError(
            f"{what}: {len(problems)} tensors do not fit the configuration: " + "; ".join(problems)
        )


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules built inside have their tables, and parameters without storage."""

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.to("meta"), requires_grad=False)

    hook = register_module_parameter_registration_hook(to_meta)  # type: ignore[arg-type]
    try:
        yield
    finally:
        hook.remove()


def load_into(module: nn.Module, tensors: Mapping[str, LazyTensor]) -> None:
    """Fill a module built under `parameters_on_meta` with fp32 values; names must match exactly."""
    state = {name: tensors[name].float32() for name in module.state_dict()}
    module.load_state_dict(state, strict=True, assign=True)


def refuse_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Pass (name, values) pairs on, raising ExportError at the first NaN or infinity."""
    for name, values in tensors:
        if not torch.isfinite(values).all():
            raise ExportError(f"checkpoint: {name} holds NaN or infinite values")
        yield name, values


def provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the bundle records of the file it was made from."""
    return {
        "file": checkpoint.path.name,
        "size_bytes": checkpoint.path.stat().st_size,
        "sha256": checkpoint.sha256(),
    }
