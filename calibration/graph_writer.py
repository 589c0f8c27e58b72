"""One stage's graph written anew: weights folded, and rounded where the recipe says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from omni_rt.bundle import Bundle
from omni_rt.calibration.attention import round_attention
from omni_rt.calibration.centring import centre_activation
from omni_rt.calibration.formats import FORMATS, Format
from omni_rt.calibration.qdq import (
    Reader,
    check_unrounded,
    read_together,
    readers,
    round_activation,
    round_each_token,
    store_as_it_is,
    store_rounded,
    store_rounded_table,
    without_weight_casts,
)
from omni_rt.calibration.rounding import compensated_matrix
from omni_rt.calibration.smooth import Folds, Smoothing
from omni_rt.export.checkpoint import LazyTensor
from omni_rt.export.half_weights import narrowed
from omni_rt.export.reference.from_bundle import stage_tensors
from omni_rt.export.surgery import simplify
from omni_rt.export.weight_file import WeightFile

# The stage that a request runs up to a hundred times, with many tokens: a processor is better off
# with fp32 matrices than with restoring them each time (2 and 3 times as long, 192 and 96 tokens).
_OFTEN_RUN = "dit_step"
TABLE = "embed_tokens.weight"  # looked up by its rows, never multiplied


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a stage is rounded: which matrices, from what was observed of them."""

    format: Format | None  # None: nothing is rounded
    smoothings: Mapping[str, Smoothing]  # by matrix; those that are not here stay as they are
    folds: Folds
    fold_id: str
    attention: Mapping[str, float]  # sizes for attention in 8 bits; empty: it is not rounded
    spared: frozenset[str] = frozenset()  # attentions that stay as they are all the same


class StageGraph:
    """A stage of an unrounded bundle: its graph and its weights in the reference's layout."""

    def __init__(self, bundle: Bundle, stage: str) -> None:
        self.stage, self.spec = stage, bundle.graph(stage)
        self.model = ir.load(bundle.path(self.spec.path))
        self.tensors: Mapping[str, LazyTensor] = stage_tensors(bundle, stage)
        check_unrounded(self.model.graph)
        without_weight_casts(self.model.graph)

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Names of the matrices that read one activation, for each."""
        return read_together(self.model.graph)

    def stored_bytes(self, name: str) -> int:
        """What a weight takes in the unrounded bundle."""
        stored = self.model.graph.initializers[name].const_value
        assert stored is not None
        return stored.nbytes

    def write(self, recipe: Recipe, file: WeightFile) -> None:
        """Write `<stage>.onnx` beside `file`, its weights into `file`."""
        graph = self.model.graph
        stored = list(graph.initializers.items())
        rounded = self._round(graph, recipe, file)
        # The model's own come in the reference's layout; the log-mel's tables are no weights of it.
        matrices = {reader.name for reader in readers(graph)} & self.tensors.keys()
        for name, weight in stored:
            if name not in rounded and isinstance(weight.const_value, ir.ExternalTensor):
                own = self._unrounded(name, weight.const_value, recipe)
                own = own.T if name in matrices else own
                store_as_it_is(graph, weight, own.reshape(_shape(weight)), file)
        if recipe.format is not None:
            self.model.opset_imports[""] = max(recipe.format.opset, self.spec.opset)
        simplify(self.model)
        graph.name = self.stage
        self.model.metadata_props["omni_rt.stage"] = self.stage
        self.model.metadata_props["omni_rt.fold_id"] = recipe.fold_id
        ir.save(self.model, file.path.parent / f"{self.stage}.onnx")

    def _value(self, name: str, recipe: Recipe) -> Tensor:
        return recipe.folds.folded(name, self.tensors[name].float32())

    def _unrounded(self, name: str, stored: ir.ExternalTensor, recipe: Recipe) -> Tensor:
        """A weight as wide as the source has it: in 16 bits only if it was, and fits again."""
        if name not in self.tensors:
            return torch.from_numpy(stored.numpy().copy())
        own = self._value(name, recipe)
        return own if stored.dtype == ir.DataType.FLOAT else narrowed(own, may_round=True)

    def _round(self, graph: ir.Graph, recipe: Recipe, file: WeightFile) -> set[str]:
        """Round what the recipe says. Returns the names of the weights that are stored so."""
        format, rounded = recipe.format, set[str]()
        if format is None:
            return rounded
        if recipe.attention:
            round_attention(graph, recipe.attention, format, spared=recipe.spared)
        for table in _tables(graph):
            weight = table.inputs[0]
            assert weight is not None
            assert weight.name is not None
            store_rounded_table(graph, table, self._value(weight.name, recipe), file)
            rounded.add(weight.name)
        for reader in readers(graph):
            smoothing = recipe.smoothings.get(reader.name)
            if smoothing is None:
                continue
            own = smoothing.rounding(format)
            if own.activation is not None and reader.name == smoothing.group.name:
                rounded |= self._round_read(graph, reader, recipe, own, file)
            self._store(graph, reader, recipe, own, file)
            rounded.add(reader.name)
        return rounded

    def _round_read(
        self, graph: ir.Graph, reader: Reader, recipe: Recipe, format: Format, file: WeightFile
    ) -> set[str]:
        """Round what a group reads. Returns the names of the biases that centring made anew."""
        smoothing, merged = recipe.smoothings[reader.name], set[str]()
        if smoothing.centre is not None:
            offsets = {
                name: self._value(name, recipe) @ smoothing.centre
                for name in smoothing.group.matrices
            }
            merged = centre_activation(
                graph,
                reader.activation,
                smoothing.centre,
                offsets,
                lambda name: self._value(name, recipe) if name in self.tensors else None,
                file,
            )
        if smoothing.per_token:
            round_each_token(graph, reader.activation, format)
        else:
            round_activation(graph, reader.activation, smoothing.largest, format)
        return merged

    def _store(
        self, graph: ir.Graph, reader: Reader, recipe: Recipe, format: Format, file: WeightFile
    ) -> None:
        read = recipe.smoothings[reader.name].read
        matrix = compensated_matrix(self._value(reader.name, recipe), format, read)
        at_load = self.stage == _OFTEN_RUN and format == FORMATS["uint8"].weights_alone
        store_rounded(graph, reader, matrix, format, file, at_load=at_load)


def _tables(graph: ir.Graph) -> list[ir.Node]:
    return [
        node
        for node in graph
        if node.op_type == "Gather"
        and (table := node.inputs[0]) is not None
        and table.is_initializer()
        and (table.name or "").endswith(TABLE)
    ]


def _shape(weight: ir.Value) -> tuple[int, ...]:
    assert weight.shape is not None
    return tuple(weight.shape.numpy())
