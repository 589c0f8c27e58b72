"""Measure a bundle's engines against the reference outputs it carries: no torch needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from omni_rt.bundle import Bundle
from omni_rt.encode import Context, Prepared
from omni_rt.engines import Engine, NarrowEngine
from omni_rt.engines.ort import OrtEngine
from omni_rt.engines.registry import AUTO, engine_loader, resolved
from omni_rt.manifest import BaseType, Certificate, Measurement
from omni_rt.metrics import measure
from omni_rt.options import Sampling
from omni_rt.plans import Plan, make_plan
from omni_rt.sampling import run_plan
from omni_rt.targets import narrow_bound, rounded_bound

Arrays = Mapping[str, NDArray[np.generic]]

END_TO_END = "end_to_end"

STAGE_BOUND = 2e-5
STAGE_ORIGIN = (
    "fp32 rounding: the original's velocities differ from fp64 by 5e-6 of their size at depth 3; "
    "errors of 36 independent blocks add up to sqrt(12) of that"
)
ENLARGED = "_enlarged_8"  # of parity arrays: 8-bit pictures to be enlarged eightfold
FLOOR = "floor_"  # of parity arrays: an output's fp32-versus-fp64 error in the reference itself
FLOOR_FACTOR = 4.0
FLOOR_ORIGIN = (
    "4 times the reference's own fp32-versus-fp64 error on this model: two fp32 evaluations differ "
    "by 1.4 times that, and convolutions that add in another order somewhat more"
)
ROUNDED = "rounded_"  # of parity arrays: what rounding the weights changes in the reference itself
END_TO_END_BOUND = 1e-4
BOUND = "bound_latents"  # of a quantised bundle's end-to-end arrays
GRID = "grid"  # of a student's end-to-end arrays: its own times
BOUND_ORIGIN = "a multiple of this model's own error of discretisation, measured beside it"
END_TO_END_ORIGIN = (
    "the stage bound, guided at 7: difference of two branches amplified, then summed"
)


def load(bundle: Bundle, stage: str, *, threads: int | None = None, engine: str = AUTO) -> Engine:
    """A stage's engine for one measurement; ONNX Runtime keeps fp32 weights mapped for it."""
    if resolved(engine) == "onnxruntime":
        path, spec = bundle.graph_file(stage), bundle.graph(stage)
        return OrtEngine(path, spec, threads=threads, prepack=False)
    return engine_loader(engine)(bundle, stage, threads)


def stage_inputs(bundle: Bundle, stage: str, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
    """The graph's inputs among parity arrays; `dit_step` takes its keys from `context`'s."""
    known = dict(arrays)
    if stage == "dit_step":
        known |= {k: v for k, v in bundle.parity("context").items() if k[:2] in ("k_", "v_")}
    known |= {
        name.removesuffix(ENLARGED): enlarged(small)
        for name, small in arrays.items()
        if name.endswith(ENLARGED)
    }
    return {port.name: known[port.name] for port in bundle.graph(stage).inputs}


def enlarged(small: NDArray[np.generic]) -> NDArray[np.float32]:
    """8-bit pictures [..., h, w] as float32 in [-1, 1], each pixel repeated to 8 × 8."""
    levels = np.asarray(small, np.float32) / np.float32(127.5) - np.float32(1)
    return np.repeat(np.repeat(levels, 8, axis=-2), 8, axis=-1)


def measure_stage(bundle: Bundle, stage: str, engine: Engine) -> dict[str, Measurement]:
    """Every output of a stage against the reference, as `stage/output`; k's and v's together."""
    arrays, dims = bundle.parity(stage), bundle.manifest.dims
    out = engine.run(**stage_inputs(bundle, stage, arrays))
    rounded = rounded_bound(bundle.graph(stage).precision, stage, dims)
    narrow = narrow_bound(base_type(engine), stage, dims)
    measured = {}
    for group, names in grouped(out).items():
        floor = float(arrays.get(FLOOR + group, np.float64(0)))
        bound, origin = with_more(
            rounded or with_rounding(*stage_bound(floor), arrays, group), narrow
        )
        measured[f"{stage}/{group}"] = measure(
            flat(out, names), flat(arrays, names), bound_rel_l2=bound, origin=origin
        )
    return measured


def grouped(outputs: Iterable[str]) -> dict[str, list[str]]:
    """Outputs that are measured together: those of all layers."""
    groups: dict[str, list[str]] = {}
    for name in outputs:
        groups.setdefault(name.rstrip("0123456789_"), []).append(name)
    return groups


def stage_bound(floor: float) -> tuple[float, str]:
    """The bound of an output and where it comes from, given the reference's own rounding error."""
    if FLOOR_FACTOR * floor > STAGE_BOUND:
        return FLOOR_FACTOR * floor, FLOOR_ORIGIN
    return STAGE_BOUND, STAGE_ORIGIN


def with_rounding(bound: float, origin: str, arrays: Arrays, group: str) -> tuple[float, str]:
    """The bound of an output where weights are stored rounded, and where it comes from.

    The triangle inequality: a graph is as close to the reference with the same rounded weights as
    other graphs are to theirs, and that one is as far from the original as was measured at export.
    """
    rounded = float(arrays.get(ROUNDED + group, np.float64(0)))
    if rounded == 0:
        return bound, origin
    return bound + rounded, (
        f"{rounded:.1e}, which rounding weights to fp16 (by 2^-11 of their size at most) changes "
        f"in the reference itself, and {bound:.1e}: {origin}"
    )


def base_type(engine: Engine) -> BaseType:
    """The type that an engine computes what is not rounded in: fp32 unless it says otherwise."""
    return engine.base_type if isinstance(engine, NarrowEngine) else "float32"


def with_more(
    bound: tuple[float, str], more: tuple[float, str] | None, *, times: float = 1.0
) -> tuple[float, str]:
    """A bound and where it comes from, with so many times another one added to it."""
    if more is None:
        return bound
    added = times * more[0]
    return bound[0] + added, f"{bound[1]}; and {added:.1e}: {more[1]}"


def flat(arrays: Arrays, names: Iterable[str]) -> NDArray[np.generic]:
    """Several arrays as one vector."""
    return np.concatenate([np.asarray(arrays[name]).ravel() for name in names])


def measure_trajectory(bundle: Bundle, engine: Engine) -> dict[str, Measurement]:
    """Latents at equal noise after the Euler steps that the reference took."""
    arrays = bundle.parity(END_TO_END)
    context = Context.of(bundle.parity("context"), depth=bundle.manifest.dims.depth)
    prepend = np.asarray(bundle.parity("signal")["prepend"], np.float32)
    plan = reference_plan(arrays)
    latents, _ = run_plan(
        engine,
        Sampling(plan=plan, cfg_scale=float(arrays["cfg_scale"])),
        [Prepared(context=context, negative=None, prepend=prepend)],
        start=np.asarray(arrays["noise"], np.float32),
        renoise=np.zeros((0,), np.float32),
    )
    if BOUND in arrays:
        found_bound = float(arrays[BOUND]), BOUND_ORIGIN
    else:
        found_bound = with_rounding(END_TO_END_BOUND, END_TO_END_ORIGIN, arrays, "latents")
    narrow = narrow_bound(base_type(engine), "dit_step", bundle.manifest.dims)
    bound, origin = with_more(found_bound, narrow, times=END_TO_END_BOUND / STAGE_BOUND)
    found = measure(latents, arrays["latents"], bound_rel_l2=bound, origin=origin)
    return {f"dit_step/latents ({plan.name}, cfg {float(arrays['cfg_scale']):g})": found}


def reference_plan(arrays: Arrays) -> Plan:
    """The Euler steps of end-to-end arrays: on uniform times, or on a student's own."""
    grid = [float(t) for t in np.asarray(arrays[GRID])] if GRID in arrays else None
    return make_plan(f"euler-{int(arrays['steps'])}", grid=grid)


def certificate(
    bundle: Bundle, *, reference: str, tell: Callable[[str], None] = lambda _: None
) -> Certificate:
    """Every graph measured with ONNX Runtime against what the bundle's parity files hold.

    reference: what made those files.
    """
    import onnxruntime

    def loader(stage: str) -> Engine:
        tell(f"certifying {stage}")
        return load(bundle, stage)

    stages: dict[str, Measurement] = {}
    whole: dict[str, Measurement] = {}
    for _, of_stage, end_to_end in measurements(bundle, loader):
        stages |= of_stage
        whole |= end_to_end
    return Certificate(
        reference=reference,
        library=f"onnxruntime {onnxruntime.__version__}, CPU",
        stages=stages,
        end_to_end=whole,
        graphs={stage: bundle.graph_digest(stage) for stage in bundle.manifest.graphs},
    )


Loader = Callable[[str], Engine]


def measurements(
    bundle: Bundle, loader: Loader, *, stages: Iterable[str] | None = None
) -> Iterator[tuple[str, dict[str, Measurement], dict[str, Measurement]]]:
    """Stage after stage, all of them or these: name, measurements, what it showed end to end."""
    for stage in bundle.manifest.graphs if stages is None else stages:
        engine = loader(stage)
        whole = {}
        if stage == "dit_step" and END_TO_END in bundle.manifest.parity:
            whole = measure_trajectory(bundle, engine)
        yield stage, measure_stage(bundle, stage, engine), whole
