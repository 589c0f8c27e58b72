"""Which files an ONNX graph takes its weights from, and in which types, read without any library.

Protocol buffers: a message is a sequence of (field << 3 | wire type) and value; ModelProto.graph is
field 7, GraphProto.initializer 5, TensorProto.data_type 2 and external_data 13, an entry's key 1
and value 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omni_rt.errors import BundleError

_GRAPH, _INITIALIZER, _DATA_TYPE, _EXTERNAL_DATA, _KEY, _VALUE = 7, 5, 2, 13, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TYPES = {1: "fp32", 2: "uint8", 3: "int8", 7: "int64", 10: "fp16", 11: "fp64", 16: "bf16"}
_TYPES |= {6: "int32", 17: "fp8", 21: "uint4", 22: "int4"}
_BITS = {"fp64": 64, "int64": 64, "fp32": 32, "int32": 32, "fp16": 16, "bf16": 16}
_BITS |= {"uint8": 8, "int8": 8, "fp8": 8, "uint4": 4, "int4": 4}


def external_files(path: Path) -> set[str]:
    """Locations that the graph's initialisers name. Raises BundleError if it is no ONNX graph."""
    return {value for _, entries in _external(path) for key, value in entries if key == "location"}


def stored_bytes(path: Path) -> dict[str, int]:
    """Bytes of the graph's weights by the type they are stored in: {"bf16": …, "fp32": …}.

    Raises BundleError if it is no ONNX graph.
    """
    found: dict[str, int] = {}
    for kind, entries in _external(path):
        length = dict(entries).get("length", "")
        if not (length.isascii() and length.isdigit()):
            raise BundleError(f"{path.name}: a weight of length {length!r}")
        found[kind] = found.get(kind, 0) + int(length)
    return found


def stored_values(path: Path) -> int:
    """How many numbers the graph's weights are, whatever they are stored in.

    Raises BundleError if it is no ONNX graph, or one of its types is unknown.
    """
    found = stored_bytes(path)
    unknown = sorted(found.keys() - _BITS.keys())
    if unknown:
        raise BundleError(f"{path.name}: weights of a type that is not known: {unknown}")
    return sum(8 * size // _BITS[kind] for kind, size in found.items())


def _external(path: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """Type and place (all that is said of it) of every initialiser that lies in another file."""
    try:
        return [
            (_TYPES.get(_number(tensor, _DATA_TYPE), "other"), entries)
            for graph in _submessages(memoryview(path.read_bytes()), _GRAPH)
            for tensor in _submessages(graph, _INITIALIZER)
            if (entries := [*map(_entry, _submessages(tensor, _EXTERNAL_DATA))])
        ]
    except (OSError, ValueError, IndexError) as error:
        raise BundleError(f"{path.name} is no ONNX graph: {error}") from error


def _entry(entry: memoryview) -> tuple[str, str]:
    key, value = (bytes(next(_submessages(entry, field), b"")) for field in (_KEY, _VALUE))
    return key.decode(), value.decode()


def _submessages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """The values of a length-delimited field of a message."""
    for field, value in _fields(data):
        if field == wanted and not isinstance(value, int):
            yield value


def _number(data: memoryview, wanted: int) -> int:
    """The last value of an integer field of a message, or 0."""
    found = 0
    for field, value in _fields(data):
        if field == wanted and isinstance(value, int):
            found = value
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of a message's fields; those of fixed size are left out."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            number, at = _varint(data, at)
            yield field, number
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("truncated")
            yield field, data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number that does not end")
