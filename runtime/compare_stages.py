"""One bundle of a comparison, and its stages on the inputs that A's parity files carry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from omni_rt.bundle import Bundle
from omni_rt.comparison import Difference, Side, StageFacts
from omni_rt.engine_pool import EnginePool
from omni_rt.engines import Array, Engine
from omni_rt.engines.registry import LoadEngine, engine_loader
from omni_rt.errors import BundleError, EngineError
from omni_rt.timing import Timing
from omni_rt.verify import flat, grouped, stage_inputs

PAIR = ("context", "dit_step")  # folded into each other when they are rounded

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opened:
    """A bundle and its engines, those of one phase at a time."""

    bundle: Bundle
    pool: EnginePool
    load_s: dict[str, float] = field(default_factory=dict)  # of a stage's first load

    @property
    def stages(self) -> frozenset[str]:
        return frozenset(self.bundle.manifest.graphs)

    def run(self, stage: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """A stage's outputs. Raises EngineError if the engine fails or they are not finite."""
        engine = self.pool.get(stage)
        try:
            outputs = engine.run(**inputs)
        except EngineError as error:
            raise EngineError(f"{self.bundle.directory}: {error}") from error
        for name, value in outputs.items():
            self.check_finite(value, f"{stage} gave", name)
        return outputs

    def check_finite(self, value: Array, what: str, name: str) -> None:
        """Raise EngineError naming this bundle for NaN or infinite values."""
        if not np.isfinite(value).all():
            raise EngineError(
                f"{self.bundle.directory}: {what} NaN or infinite {name}: "
                "run `omni-rt verify` on this bundle"
            )

    def side(self, step: Timing | None) -> Side:
        """What is to be said of it alone."""
        manifest = self.bundle.manifest
        sizes = {path: spec.size_bytes for path, spec in manifest.files.items()}
        parts = {stage: {g.path, *g.data} for stage, g in manifest.graphs.items()}
        certificate = manifest.certificate
        rounding = None if certificate is None else certificate.rounding
        return Side(
            name=manifest.name,
            target=None if rounding is None else rounding.target,
            bundle=self.bundle.id,
            size_bytes=manifest.size_bytes,
            graphs_bytes=sum(sizes[path] for path in set().union(*parts.values())),
            stages={
                stage: StageFacts(
                    precision=graph.precision,
                    size_bytes=sum(sizes[path] for path in parts[stage]),
                    load_s=self.load_s.get(stage),
                )
                for stage, graph in manifest.graphs.items()
            },
            step=step,
        )


def opened(bundle: Bundle, *, engine: str | LoadEngine, threads: int | None) -> Opened:
    """A bundle with its engines to be loaded and timed. Raises RequestError or EngineError."""
    load = engine_loader(engine)
    load_s: dict[str, float] = {}

    def timed(bundle: Bundle, stage: str, threads: int | None, /) -> Engine:
        begun = time.perf_counter()
        try:
            found = load(bundle, stage, threads)
        except EngineError as error:
            raise EngineError(f"{bundle.directory}: {error}") from error
        load_s.setdefault(stage, time.perf_counter() - begun)
        return found

    pool = EnginePool(bundle, threads=threads, memory="staged", engine=timed)
    return Opened(bundle=bundle, pool=pool, load_s=load_s)


def compared_stages(
    a: Opened, b: Opened | None, notes: list[str], tell: Tell
) -> Iterator[tuple[str, Difference]]:
    """Every output of B against A's, as "stage/output"; k's and v's together.

    Without B, A's against the reference's in its parity files. What cannot be compared is said in
    `notes`. Raises BundleError for parity data that lack an array, EngineError for outputs that are
    not finite.
    """
    if b is not None:
        for stage in sorted(a.stages ^ b.stages):
            notes.append(f"{stage}: only {'A' if stage in a.stages else 'B'} has this stage")
    for stage in a.bundle.manifest.graphs:
        if b is not None and stage not in b.stages:
            continue
        reason = _incomparable(a.bundle, a.bundle if b is None else b.bundle, stage)
        if reason is not None:
            notes.append(f"{stage}: {reason}")
            continue
        tell(stage)
        inputs = parity_inputs(a.bundle, stage)
        found = a.run(stage, inputs)
        if b is None:
            reference, value = parity_outputs(a.bundle, stage, found), found
        else:
            reference, value = found, b.run(stage, inputs)
        for group, names in grouped(found).items():
            yield f"{stage}/{group}", Difference.of(flat(value, names), flat(reference, names))


def _incomparable(a: Bundle, b: Bundle, stage: str) -> str | None:
    """Why a stage of both cannot be compared on A's inputs; None if it can."""
    ours, theirs = a.graph(stage), b.graph(stage)
    if (ours.inputs, ours.outputs) != (theirs.inputs, theirs.outputs):
        return "its inputs and outputs differ"
    if stage in PAIR and ours.fold_id != theirs.fold_id:
        return f"folded differently, so compared as {'+'.join(PAIR)}"
    needed = PAIR if stage == "dit_step" else (stage,)
    missing = [name for name in needed if name not in a.manifest.parity]
    return f"A carries no parity data of {', '.join(missing)}" if missing else None


def parity_inputs(bundle: Bundle, stage: str) -> dict[str, Array]:
    """A stage's inputs from the bundle's parity files. Raises BundleError if they lack one."""
    try:
        return stage_inputs(bundle, stage, bundle.parity(stage))
    except KeyError as error:
        raise BundleError(f"parity data of {stage!r} lack {error.args[0]}") from error


def parity_outputs(bundle: Bundle, stage: str, names: Iterable[str]) -> dict[str, Array]:
    """The reference's outputs of a stage, by name. Raises BundleError if one is not there."""
    arrays = bundle.parity(stage)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise BundleError(f"parity data of {stage!r} lack {', '.join(missing)}")
    return {name: arrays[name] for name in names}


def same_stages(sides: Sequence[Opened], *stages: str) -> bool:
    """Whether all of them have all these stages."""
    return all(side.stages.issuperset(stages) for side in sides)
