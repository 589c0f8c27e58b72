"""JSON ↔ frozen dataclasses: every key known, every value of its type, errors that say where."""

from __future__ import annotations

import collections.abc
import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from omni_rt.errors import BundleError

T = TypeVar("T")


def parse(kind: type[T], raw: object, *, where: str) -> T:
    """A `kind` from parsed JSON. Raises BundleError naming the place, e.g. `graphs.context.opset`.

    Understands dataclasses, str, int, float, bool, None, `Literal`, unions, `tuple[X, ...]`,
    `Mapping[str, X]` and `Any`.
    """
    value: T = _parse(kind, raw, where)
    return value


def read(kind: type[T], path: Path) -> T:
    """A `kind` from a JSON file. Raises BundleError if it is unreadable or holds something else."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path.name}: {error}") from error
    return parse(kind, raw, where=path.name)


def _parse(kind: Any, raw: Any, where: str) -> Any:
    if kind is Any:
        return raw
    if is_dataclass(kind):
        return _dataclass(kind, raw, where)
    parse_generic = _GENERIC.get(get_origin(kind))
    if parse_generic is not None:
        return parse_generic(get_args(kind), raw, where)
    return _scalar(kind, raw, where)


def _dataclass(kind: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, Mapping):
        raise _wrong(where, "an object", raw)
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(raw.keys() - known.keys())
    missing = sorted(
        name
        for name, f in known.items()
        if name not in raw and f.default is MISSING and f.default_factory is MISSING
    )
    if unknown or missing:
        problems = [f"unknown key {k!r}" for k in unknown] + [f"missing key {k!r}" for k in missing]
        raise BundleError(f"{where}: " + ", ".join(problems))
    hints = get_type_hints(kind)
    return kind(**{k: _parse(hints[k], v, f"{where}.{k}") for k, v in raw.items()})


def _scalar(kind: Any, raw: Any, where: str) -> Any:
    if kind is float and type(raw) in (int, float):
        try:
            value = float(raw)
        except OverflowError:  # an integer beyond every float
            value = math.inf
        if math.isfinite(value):
            return value
    if kind in (str, int, bool, type(None)) and type(raw) is kind:
        return raw
    raise _wrong(where, getattr(kind, "__name__", str(kind)), raw)


def _literal(choices: tuple[Any, ...], raw: Any, where: str) -> Any:
    if raw not in choices:
        raise _wrong(where, f"one of {list(choices)}", raw)
    return raw


def _union(choices: tuple[Any, ...], raw: Any, where: str) -> Any:
    problem: BundleError | None = None
    for choice in choices:
        try:
            return _parse(choice, raw, where)
        except BundleError as error:
            # of `X | None`, what is wrong with the X helps; "not None" does not
            problem = problem if choice is type(None) and problem else error
    assert problem is not None
    raise problem


def _tuple(kinds: tuple[Any, ...], raw: Any, where: str) -> Any:
    if not isinstance(raw, list):
        raise _wrong(where, "a list", raw)
    return tuple(_parse(kinds[0], item, f"{where}[{i}]") for i, item in enumerate(raw))


def _mapping(kinds: tuple[Any, ...], raw: Any, where: str) -> Any:
    if not isinstance(raw, Mapping):
        raise _wrong(where, "an object", raw)
    return {key: _parse(kinds[1], value, f"{where}.{key}") for key, value in raw.items()}


def _wrong(where: str, wanted: str, raw: Any) -> BundleError:
    return BundleError(f"{where}: expected {wanted}, got {raw!r:.80}")


_GENERIC: Mapping[Any, Callable[[tuple[Any, ...], Any, str], Any]] = {
    Literal: _literal,
    Union: _union,
    types.UnionType: _union,
    tuple: _tuple,
    collections.abc.Mapping: _mapping,
}


def to_json(value: Any) -> Any:
    """The inverse of `parse`: dataclasses as objects, tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value
