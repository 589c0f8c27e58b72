"""Which files an ONNX graph takes its weights from, read without any library.

Protocol buffers: a message is a sequence of (field << 3 | wire type) and value; ModelProto.graph is
field 7, GraphProto.initializer 5, TensorProto.external_data 13, an entry's key 1 and value 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omni_rt.errors import BundleError

_GRAPH, _INITIALIZER, _EXTERNAL_DATA, _KEY, _VALUE = 7, 5, 13, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def external_files(path: Path) -> set[str]:
    """Locations that the graph's initialisers name. Raises BundleError if it is no ONNX graph."""
    try:
        data = memoryview(path.read_bytes())
        found = set()
        for graph in _submessages(data, _GRAPH):
            for tensor in _submessages(graph, _INITIALIZER):
                for entry in _submessages(tensor, _EXTERNAL_DATA):
                    if bytes(next(_submessages(entry, _KEY), b"")) == b"location":
                        found.add(bytes(next(_submessages(entry, _VALUE), b"")).decode())
        return found
    except (OSError, ValueError, IndexError) as error:
        raise BundleError(f"{path.name} is no ONNX graph: {error}") from error


def _submessages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """The values of a length-delimited field of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("truncated")
            if field == wanted:
                yield data[at : at + length]
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
