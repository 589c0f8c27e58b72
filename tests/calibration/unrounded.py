"""The packaged miniature with its rounding undone: a bundle to quantise, in a second.

Graphs are as the exporter writes them, and weights are what the rounded ones are worth, in 16 bits
where they can be. Exporting takes half a minute, and gives the weights as they were.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from omni_rt import miniature
from omni_rt.bundle import Bundle
from omni_rt.calibration.qdq import store_as_it_is
from omni_rt.export.bundle_plans import unmeasured
from omni_rt.export.graphs import OPSET
from omni_rt.export.half_weights import narrowed
from omni_rt.export.pack import list_files
from omni_rt.export.surgery import simplify
from omni_rt.export.weight_file import WeightFile
from omni_rt.manifest import write_manifest


def unrounded(folder: Path) -> Bundle:
    """Write the bundle into a folder that is not there yet."""
    packaged = Bundle.open(miniature())
    shutil.copytree(packaged.directory, folder, ignore=lambda *_: ["graphs"])
    (folder / "graphs").mkdir()
    graphs = {}
    files: dict[str, WeightFile] = {}
    for stage, spec in packaged.manifest.graphs.items():
        (data,) = spec.data
        if data not in files:
            files[data] = WeightFile(folder / data)
        model = ir.load(packaged.path(spec.path))
        undo(model.graph, files[data])
        model.opset_imports[""] = OPSET
        simplify(model)
        ir.save(model, folder / spec.path)
        graphs[stage] = replace(spec, precision="fp32", opset=OPSET, fold_id="fp32")
    for file in files.values():
        file.close()
    manifest = replace(packaged.manifest, graphs=graphs, files=list_files(folder), certificate=None)
    write_manifest(unmeasured(manifest, student_plans=()), folder)
    return Bundle.open(folder)


def undo(graph: ir.Graph, file: WeightFile) -> None:
    """Let every matrix, table and activation be read as floats again."""
    matrices = {name: value for name, value in graph.initializers.items() if is_stored(value)}
    for node in list(graph):
        given = node.inputs[0] if node.inputs else None
        if given is None:
            continue
        if node.op_type == "DequantizeLinear" and given.is_initializer():
            matrices.pop(str(given.name))
            own = dequantised(given, node.inputs[1])
            bypass(graph, node, given)
            store(graph, given, own, file, may_round=True)
        elif node.op_type == "Cast" and given.dtype == ir.DataType.INT8 and given.is_initializer():
            matrices.pop(str(given.name))
            (product,) = node.outputs[0].consumers()
            own = dequantised(given, product.inputs[1])
            bypass(graph, product, given)
            graph.remove(node, safe=True)
            store(graph, given, own, file, may_round=True)
        elif node.op_type == "DequantizeLinear":
            quantise = given.producer()
            assert quantise is not None
            assert quantise.inputs[0] is not None
            bypass(graph, node, without_sizes(graph, quantise.inputs[0]))
        elif node.op_type == "Gather" and given.dtype == ir.DataType.INT8:
            matrices.pop(str(given.name))
            undo_table(graph, node, file)
    for value in matrices.values():
        assert value.const_value is not None
        array = value.const_value.numpy()
        wide = array.astype(np.float32) if array.dtype.itemsize == 2 else array.copy()
        if array.dtype.itemsize == 2:
            without_cast(graph, value)
        store(graph, value, torch.from_numpy(wide), file)


def without_sizes(graph: ir.Graph, read: ir.Value) -> ir.Value:
    """What is quantised, before each token was divided by its size; no product is scaled back."""
    divide = read.producer()
    if divide is None or divide.op_type != "Div" or not str(read.name).endswith(".divided"):
        return read
    whole, sizes = divide.inputs
    assert whole is not None
    assert sizes is not None
    for node in list(sizes.consumers()):
        if node.op_type == "Mul":
            product = node.inputs[0]
            assert product is not None
            bypass(graph, node, product)
    return whole


def is_stored(value: ir.Value) -> bool:
    """Whether it is a weight, and no scale or zero point of one."""
    return isinstance(value.const_value, ir.ExternalTensor) and not str(value.name).endswith(
        (".scale", ".zero")
    )


def dequantised(*stored: ir.Value | None) -> Tensor:
    """What a matrix [K, N] in integers is worth, with a scale for each column or block of rows."""
    values, scale = (
        value.const_value.numpy().astype(np.float32)
        for value in stored
        if value is not None and value.const_value is not None
    )
    if scale.ndim == 2:
        scale = scale.repeat(len(values) // len(scale), axis=0)
    return torch.from_numpy(values * scale)


def undo_table(graph: ir.Graph, lookup: ir.Node, file: WeightFile) -> None:
    """Gather, Cast, times the gathered scale: → Gather."""
    table, ids = lookup.inputs[0], lookup.inputs[1]
    assert table is not None
    assert ids is not None
    assert table.const_value is not None
    (cast,) = lookup.outputs[0].consumers()
    (product,) = cast.outputs[0].consumers()
    unit = product.inputs[1]
    assert unit is not None
    gather = unit.producer()
    assert gather is not None
    scales = gather.inputs[0]
    assert scales is not None
    assert scales.const_value is not None
    own = torch.from_numpy(
        table.const_value.numpy().astype(np.float32) * scales.const_value.numpy()
    )
    rows, out = lookup.outputs[0], product.outputs[0]
    rows.dtype, rows.shape, name = ir.DataType.FLOAT, out.shape, out.name
    ir.convenience.replace_all_uses_with(out, rows, replace_graph_outputs=True)
    graph.remove([product, cast, gather], safe=False)
    out.name, rows.name = None, name
    graph.initializers.pop(str(scales.name))
    store(graph, table, own, file)


def bypass(graph: ir.Graph, node: ir.Node, source: ir.Value) -> None:
    ir.convenience.replace_all_uses_with(node.outputs[0], source)
    graph.remove(node, safe=True)


def without_cast(graph: ir.Graph, value: ir.Value) -> None:
    """Let what reads a weight of 16 bits through a Cast read it directly."""
    for node in list(value.consumers()):
        if node.op_type == "Cast":
            bypass(graph, node, value)
        elif node.op_type == "Gather":
            rows = node.outputs[0]
            rows.dtype = ir.DataType.FLOAT
            for cast in list(rows.consumers()):
                if cast.op_type == "Cast":
                    bypass(graph, cast, rows)


def store(
    graph: ir.Graph, value: ir.Value, own: Tensor, file: WeightFile, *, may_round: bool = False
) -> None:
    """As `--weights half` does."""
    value.shape = ir.Shape(own.shape)
    store_as_it_is(graph, value, narrowed(own, may_round=may_round), file)
