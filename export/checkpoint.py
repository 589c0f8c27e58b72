"""Checkpoint files as a lazy mapping: shapes first, one tensor at a time afterwards.

Nothing is unpickled but tensors (`weights_only`), and files are memory-mapped, so that a 21 GB
checkpoint needs no 21 GB of memory.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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


def _nothing() -> None:
    """What there is to release of a tensor that is in no file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyTensor:
    """A tensor's shape now, its values on demand."""

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Tensor]
    release: Callable[[], None] = _nothing  # unmaps its file; the next load maps it again
    computed: bool = False  # a table that a module computes: in no file, and never rounded

    def float32(self) -> Tensor:
        """The values as contiguous fp32 (upcasting is exact)."""
        return self.load().to(torch.float32).contiguous()

    def reshaped(self, shape: Sequence[int]) -> LazyTensor:
        """The same fp32 values in another shape."""

        def load() -> Tensor:
            return self.float32().reshape(tuple(shape))

        return LazyTensor(shape=tuple(shape), dtype="float32", load=load, release=self.release)


def release_files(tensors: Mapping[str, LazyTensor]) -> None:
    """Unmap the files of these tensors: pages that were read count as memory until then."""
    for release in {tensor.release for tensor in tensors.values()}:
        release()


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
    file = _Safetensors(path) if path.suffix == ".safetensors" else _Pickle(path)
    return file.lazy_tensors()


class _Safetensors:
    """A `.safetensors` file, mapped while its tensors are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapped: Any = safe_open_or_refuse(path)

    def lazy_tensors(self) -> dict[str, LazyTensor]:
        return {key: self._lazy(key) for key in self._file().keys()}  # noqa: SIM118  not a mapping

    def _file(self) -> Any:
        if self._mapped is None:
            self._mapped = safe_open_or_refuse(self.path)
        return self._mapped

    def _lazy(self, key: str) -> LazyTensor:
        entry = self._file().get_slice(key)
        return LazyTensor(
            shape=tuple(entry.get_shape()),
            dtype=str(entry.get_dtype()),
            load=partial(self._load, key),
            release=self.release,
        )

    def _load(self, key: str) -> Tensor:
        return self._file().get_tensor(key)

    def release(self) -> None:
        self._mapped = None


def safe_open_or_refuse(path: Path) -> Any:
    """An open `.safetensors` file. Raises ExportError if it is none, or not a whole one."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ExportError(f"checkpoint: {path} is no whole safetensors file: {error}") from error


class _Pickle:
    """A `.ckpt` of tensors alone, mapped while they are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapped: dict[str, Tensor] | None = _state_dict(path)

    def lazy_tensors(self) -> dict[str, LazyTensor]:
        return {
            key: LazyTensor(
                shape=tuple(value.shape),
                dtype=str(value.dtype).removeprefix("torch."),
                load=partial(self._load, key),
                release=self.release,
            )
            for key, value in self._state().items()
        }

    def _state(self) -> dict[str, Tensor]:
        if self._mapped is None:
            self._mapped = _state_dict(self.path)
        return self._mapped

    def _load(self, key: str) -> Tensor:
        return self._state()[key]

    def release(self) -> None:
        self._mapped = None


def _state_dict(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        raise ExportError(
            f"checkpoint: {path} is no whole zip file as torch.save writes it: damaged, truncated, "
            "or of before torch 1.6 (then save it again)"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"checkpoint: {path} holds more than tensors; refusing to unpickle it"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ExportError(f"checkpoint: {path} is damaged or truncated: {_line(error)}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise ExportError(f'checkpoint: {path} must hold {{"state_dict": tensors}}')
    return state


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


def provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the bundle records of the file it was made from."""
    return {
        "file": checkpoint.path.name,
        "size_bytes": checkpoint.path.stat().st_size,
        "sha256": checkpoint.sha256(),
    }
