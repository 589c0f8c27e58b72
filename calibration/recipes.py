"""What was observed → how every stage is rounded: which matrices, with which factors and scales."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import Tensor

from omni_rt.bundle import Bundle
from omni_rt.calibration.attention import attention_sizes, products_of
from omni_rt.calibration.formats import FORMATS, Format
from omni_rt.calibration.graph_writer import Recipe, StageGraph
from omni_rt.calibration.groups import Group, groups_of
from omni_rt.calibration.magnitudes import largest_value
from omni_rt.calibration.ranges import LayerRange, Ranges, joined
from omni_rt.calibration.smooth import Folds, Smoothing, by_matrix, smoothed
from omni_rt.errors import ExportError
from omni_rt.export.checkpoint import LazyTensor
from omni_rt.export.reference.from_bundle import stage_tensors
from omni_rt.targets import StageFormat

Progress = Callable[[str], None]

# Keys and values of `context` are divided by what `dit_step` multiplies: they are folded together.
_FOLDED_TOGETHER = ("context", "dit_step")
# Layers of one language model: with the same rounded weights they share a file. What answers has
# all the layers, so its choices come first.
_SAME_WEIGHTS = ("thinker_lm", "thinker_cond")

# Blocks and the head; the first and last projections and the timestep's path stay as they are.
_ROUNDED = re.compile(r"\.(layers|blocks)\.\d+\.|\.lm_head\.|\.merger\.mlp\.")


def is_rounded(name: str) -> bool:
    """Whether a matrix of this name is one that a format applies to."""
    return _ROUNDED.search(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipes:
    """A recipe for every stage of a bundle, and what went into them."""

    by_stage: Mapping[str, Recipe]
    smoothings: Mapping[str, tuple[Smoothing, ...]]  # by stage
    kept: tuple[str, ...]  # matrices and attentions of the blocks that are not rounded
    weights_only: tuple[str, ...]  # groups of matrices that are, but not what they read
    per_token: tuple[str, ...]  # groups that read activations with a scale for each token
    centred: tuple[str, ...]  # groups that read activations less a constant vector
    largest: Mapping[str, float]  # of what a stage's products read and put out, folded


def families(stages: Collection[str], formats: Mapping[str, StageFormat]) -> list[tuple[str, ...]]:
    """Stages that are folded together, in the order in which factors are chosen."""
    sets = [_FOLDED_TOGETHER]
    chosen = {formats.get(stage) for stage in _SAME_WEIGHTS}
    if len(chosen) == 1 and None not in chosen and _weights_only(chosen):
        sets.append(_SAME_WEIGHTS)
    together = [tuple(stage for stage in own if stage in stages) for own in sets]
    taken = {stage for own in together for stage in own}
    alone = [(stage,) for stage in stages if stage not in taken]
    return [own for own in together if own] + alone


def _weights_only(formats: Collection[StageFormat | None]) -> bool:
    return all(name is not None and FORMATS[name].activation is None for name in formats)


def make_recipes(
    bundle: Bundle,
    formats: Mapping[str, StageFormat],
    ranges: Ranges,
    *,
    keep: Collection[str] = (),
    weights_only: Collection[str] = (),
    per_token: bool = True,
    progress: Progress,
) -> Recipes:
    """Choose factors and scales for every stage.

    Matrices in `keep` are not rounded, nor are those that read the same activation, nor attentions
    that are named there. Of what reads the same as a matrix in `weights_only`, the matrices are,
    and what they read is not, unless they are kept. Names may be patterns (`*.to_out.*`).
    per_token: whether activations may have a scale for each token.
    Raises ExportError for a matrix that was never observed, and for a name that stands for none of
    the groups.
    """
    recipes: dict[str, Recipe] = {}
    kept, alone = _Names(keep), _Names(weights_only)
    chosen: dict[str, tuple[Smoothing, ...]] = {}
    largest: dict[str, float] = {}
    for family in families(bundle.manifest.graphs, formats):
        graphs = {stage: StageGraph(bundle, stage) for stage in family}
        tensors = {n: t for graph in graphs.values() for n, t in graph.tensors.items()}
        known: dict[tuple[str, ...], Smoothing] = {}
        for stage, graph in graphs.items():
            if stage in formats and stage in ranges.layers:
                progress(f"factors of {stage}")
                format = FORMATS[formats[stage]]
                for group in _groups(bundle, graph, tensors):
                    only = format.activation is not None and alone.name(group.matrices)
                    if not kept.name(group.matrices) and group.matrices not in known:
                        seen = _seen(ranges, family, group.matrices, stage)
                        weights = [tensors[name].float32() for name in group.matrices]
                        known[group.matrices] = _smoothed(
                            group, seen, weights, format, weights_only=only, per_token=per_token
                        )
                chosen[stage] = tuple(known[n] for n in graph.groups() if n in known)
        together = [s for stage in family for s in chosen.get(stage, ())]
        folds = Folds(together)
        for stage in family:
            if stage in ranges.layers:
                own = chosen.get(stage, ())
                largest[stage] = largest_value(ranges.layers[stage], own, together)
            sizes = _attention(stage, formats, ranges, chosen.get(stage, ()))
            recipes[stage] = Recipe(
                format=FORMATS[formats[stage]] if stage in formats else None,
                smoothings=by_matrix(chosen.get(stage, ())),
                folds=folds,
                fold_id=_fold_id(folds) if stage in _FOLDED_TOGETHER else "fp32",
                attention=sizes,
                spared=frozenset(name for name in products_of(sizes) if kept.name([name])),
            )
    if kept.unused:
        raise ExportError(f"cannot keep {', '.join(kept.unused)}: no such matrix is rounded")
    if alone.unused:
        raise ExportError(
            f"cannot round the weights alone of {', '.join(alone.unused)}: no such matrix is "
            "rounded with what it reads"
        )
    return Recipes(
        by_stage=recipes,
        smoothings=chosen,
        kept=kept.found,
        weights_only=_names(chosen, lambda smoothing: smoothing.weights_only),
        per_token=_names(chosen, lambda smoothing: smoothing.per_token),
        centred=_names(chosen, lambda smoothing: smoothing.centre is not None),
        largest=largest,
    )


def _names(
    chosen: Mapping[str, Sequence[Smoothing]], which: Callable[[Smoothing], bool]
) -> tuple[str, ...]:
    return tuple(sorted({s.group.name for own in chosen.values() for s in own if which(s)}))


class _Names:
    """Names and patterns of a user's, and which matrices they have stood for."""

    def __init__(self, asked: Collection[str]) -> None:
        self._asked, self._unused, self._found = asked, set(asked), set[str]()

    def name(self, matrices: Sequence[str]) -> bool:
        """Whether one of these, which read the same, is meant. The first stands for a pattern."""
        meant = {p for p in self._asked if any(fnmatchcase(matrix, p) for matrix in matrices)}
        self._unused -= meant
        self._found |= {p if p in matrices else matrices[0] for p in meant}
        return bool(meant)

    @property
    def found(self) -> tuple[str, ...]:
        return tuple(sorted(self._found))

    @property
    def unused(self) -> tuple[str, ...]:
        return tuple(sorted(self._unused))


def _smoothed(
    group: Group,
    seen: LayerRange,
    weights: Sequence[Tensor],
    format: Format,
    *,
    weights_only: bool,
    per_token: bool = False,
) -> Smoothing:
    own = format.weights_alone if weights_only else format
    made = smoothed(group, seen, weights, own, per_token=per_token)
    return replace(made, weights_only=weights_only)


def weights_alone(
    bundle: Bundle, ranges: Ranges, stage: str, groups: Sequence[Smoothing], format: Format
) -> list[Smoothing]:
    """The choices for these groups of a stage if their matrices alone were rounded."""
    tensors = stage_tensors(bundle, stage)
    return [
        _smoothed(
            own.group,
            _seen(ranges, (stage,), own.group.matrices, stage),
            [tensors[name].float32() for name in own.group.matrices],
            format,
            weights_only=True,
        )
        for own in groups
    ]


def _attention(
    stage: str,
    formats: Mapping[str, StageFormat],
    ranges: Ranges,
    smoothings: Sequence[Smoothing],
) -> Mapping[str, float]:
    """Sizes for the step's attention in FP8. In 8-bit integers it would not stay fused."""
    if stage != "dit_step" or formats.get(stage) != "fp8":
        return {}
    context = ranges.layers.get("context", {})
    return attention_sizes(ranges.layers[stage], context, smoothings)


def _groups(
    bundle: Bundle, graph: StageGraph, tensors: Mapping[str, LazyTensor]
) -> tuple[Group, ...]:
    thinker = bundle.manifest.dims.thinker
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    wanted = [names for names in graph.groups() if is_rounded(names[0])]
    return groups_of(wanted, shapes, head_width=None if thinker is None else thinker.head_width)


def _seen(
    ranges: Ranges, family: Collection[str], matrices: Sequence[str], stage: str
) -> LayerRange:
    """The range of what these matrices read, in all stages of the family that have them.

    Raises ExportError if it is of no use.
    """
    layers = [ranges.layers[own] for own in family if own in ranges.layers]
    found = [own[matrices[0]] for own in layers if matrices[0] in own]
    if not found:
        raise ExportError(
            f"calibration: {stage} never ran with {matrices[0]}: "
            "the inputs lack a task that uses it"
        )
    seen = joined(found)
    if not seen.channel_max.any():
        raise ExportError(f"calibration: all that {matrices[0]} read was 0: silent inputs?")
    return seen


def _fold_id(folds: Folds) -> str:
    """A digest of the factors: graphs that were folded differently do not belong together."""
    digest = hashlib.sha256()
    for name, factor in folds.factors():
        digest.update(name.encode() + factor.numpy().tobytes())
    return "smooth-" + digest.hexdigest()[:12] if folds.names else "fp32"
