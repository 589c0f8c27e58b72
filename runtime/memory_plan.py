"""How much memory and time a model would take on a device: an estimate, made before it is loaded.

Memory of a stage: its weights, what passes between its layers (`activation`), and what goes in and
out (`buffers`). `resident` holds all stages; `staged` those of one phase (`omni_rt.engine_pool`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from omni_rt.answering import SLICE_TOKENS
from omni_rt.architecture import Architecture
from omni_rt.devices import Device
from omni_rt.engine_pool import Memory, together
from omni_rt.errors import EngineError, RequestError
from omni_rt.longform import segment_count, segment_hop
from omni_rt.manifest import EngineSpec
from omni_rt.options import checked_duration
from omni_rt.plans import Plan
from omni_rt.roofline import (
    Sizes,
    StageCost,
    attending,
    port_bytes,
    request_sizes,
    stage_cost,
    tokens_of,
    weight_bytes,
)
from omni_rt.senses import CHUNKS_AT_ONCE, PATCHES_AT_ONCE, SEGMENTS_AT_ONCE
from omni_rt.targets import StageFormat

# A block's residual (1), what its gated feed-forward makes (8) and what is left of it (4), in
# widths: the transformer's; the thinker's and the towers' are no wider.
_BLOCK_WIDTHS = 13
_PLAIN_WIDTHS = 3  # of a stage of single products: input, between, output
# Of the largest set of tensors that live together. In the builds of spec QUANTISATION §2 the step
# took 1.0 to 1.7 times its own at 4 and 12 blocks, and would take 2.8 times at 36.
_KEPT_BY_COMPILERS = 3
_HALF = 2  # bytes
# The driver's context, the library's code and workspaces: an assumption, not a measurement.
CONTEXT_BYTES = 600 << 20
_ANSWER_TOKENS = 4096  # held: a ten-second video with its sound, and an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is asked of the model."""

    plan: Plan
    duration_s: float = 10.0
    rows: int = 2  # of the loop: two per guided request, an odd number is unguided
    prompt_tokens: int | None = None  # None: a usual text; a ten-second video has some 3700


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Estimated bytes of one stage while it runs."""

    weights: int
    activation: int
    buffers: int

    @property
    def total(self) -> int:
        return self.weights + self.activation + self.buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """A stage: one call as a roofline has it, and how often a request calls it."""

    cost: StageCost
    memory: StageMemory
    calls: int  # of a request for sound from text; 0: only for other input


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """An estimate for one model on one device; nothing in it was measured."""

    model: str
    device: Device
    memory: Memory
    stages: Mapping[str, StagePlan]
    evaluations: int
    segments: int
    audio_s: float  # that the request makes, all its rows together
    needed_bytes: Mapping[Memory, int]
    compiled_activation: Mapping[str, int]  # bytes that the compiler states, of a bundle's engines

    @property
    def request_s(self) -> float:
        """A lower bound for the whole request, loading left out."""
        return sum(stage.calls * stage.cost.predicted_s for stage in self.stages.values())


def make_memory_plan(
    model: Architecture,
    device: Device,
    job: Job,
    *,
    memory: Memory,
    formats: Mapping[str, StageFormat] | None = None,
    engines: Mapping[str, EngineSpec] = MappingProxyType({}),
) -> MemoryPlan:
    """The estimate for a request. Raises RequestError for a duration or rows that cannot be.

    formats: of each stage's matrices, 16 bits if not listed; None: the device's.
    engines: by stage, what a bundle has for the device. The activations of their largest profiles
    go beside the estimate, not into it: that is for this request, they are for any.
    """
    dims, formats = model.dims, device.formats if formats is None else formats
    requests = attending(job.rows)
    samples = round(checked_duration(job.duration_s) * dims.sample_rate_hz)
    segments = segment_count(samples, segment=dims.clip_samples, hop=segment_hop(dims))
    calls = _calls(requests, segments, job.plan.evaluations)
    stages = {}
    for stage in model.weights:
        sizes = _time_sizes(model, stage, job)
        cost = stage_cost(model, stage, sizes, device, formats=formats)
        used = _stage_memory(model, stage, _largest_call(stage, sizes), formats.get(stage))
        stages[stage] = StagePlan(cost=cost, memory=used, calls=calls.get(stage, 0))
    return MemoryPlan(
        model=model.name,
        device=device,
        memory=memory,
        stages=stages,
        evaluations=job.plan.evaluations,
        segments=segments,
        audio_s=requests * job.duration_s,
        needed_bytes=needed_bytes({name: plan.memory for name, plan in stages.items()}),
        compiled_activation={
            name: max(profile.activation_bytes for profile in spec.profiles)
            for name, spec in engines.items()
        },
    )


def _calls(requests: int, segments: int, evaluations: int) -> dict[str, int]:
    """How often a request for sound from text calls each stage; the others are not called."""
    windows = requests * segments
    prompt = dict.fromkeys(("thinker_embed", "thinker_cond"), requests)
    window = dict.fromkeys(("context", "signal", "vae_decoder"), windows)
    return {**prompt, **window, "dit_step": evaluations * segments}


def _time_sizes(model: Architecture, stage: str, job: Job) -> dict[str, int]:
    """Of a call that is timed: of the language model, one token of an answer."""
    if stage == "thinker_lm":
        assert model.dims.thinker is not None
        held = min(_ANSWER_TOKENS, model.dims.thinker.max_positions) - 1
        return request_sizes(model.dims, rows=job.rows, prompt_tokens=1, held_tokens=held)
    return request_sizes(model.dims, rows=job.rows, prompt_tokens=job.prompt_tokens)


def _largest_call(stage: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """Of the largest call that the runtime makes of a stage."""
    most = {**sizes, "chunks": CHUNKS_AT_ONCE, "S": SEGMENTS_AT_ONCE}
    most["rows"] = sizes["rows"] // sizes["S"] * SEGMENTS_AT_ONCE
    most["grids"] = max(PATCHES_AT_ONCE // sizes["patches"], 1)
    if stage == "thinker_lm":  # a prompt is read in slices
        most["seq"] = min(SLICE_TOKENS, sizes["total"])
    return most


def _stage_memory(
    model: Architecture, stage: str, sizes: Sizes, format: StageFormat | None
) -> StageMemory:
    return StageMemory(
        weights=weight_bytes(model, stage, format),
        activation=_KEPT_BY_COMPILERS * _HALF * _live_values(model, stage, sizes),
        buffers=port_bytes(model.dims, stage, sizes),
    )


def _live_values(model: Architecture, stage: str, sizes: Sizes) -> int:
    """Numbers in the largest set of tensors inside a stage that live together."""
    dims = model.dims
    if stage == "vae_decoder":
        return sizes["B"] * model.decoder.widest(sizes["frames"] * dims.downsampling_ratio)
    if stage == "vae_encoder":
        return sizes["B"] * model.encoder.widest(sizes["samples"])
    widths = {
        "dit_step": _BLOCK_WIDTHS * dims.width,
        "synchformer": _BLOCK_WIDTHS * dims.sync_width,
        "transcript": _PLAIN_WIDTHS * dims.cond_width,
        "context": _PLAIN_WIDTHS * dims.width,
        "signal": _PLAIN_WIDTHS * dims.width,
    }
    return tokens_of(stage, dims, sizes) * widths.get(stage, _BLOCK_WIDTHS * dims.hidden_width)


def needed_bytes(stages: Mapping[str, StageMemory]) -> dict[Memory, int]:
    """In either mode: all stages, or the phase that takes most; and the driver's context."""
    used = together({name: memory.total for name, memory in stages.items()})
    return {mode: CONTEXT_BYTES + size for mode, size in used.items()}


def check_fits(plan: MemoryPlan, available_bytes: int) -> None:
    """Raise EngineError unless the plan's mode fits: what it needs, what there is, what would fit.

    Raises RequestError if no memory is available at all.
    """
    if available_bytes <= 0:
        raise RequestError(f"available memory must be positive, got {available_bytes} bytes")
    needed = plan.needed_bytes
    if needed[plan.memory] <= available_bytes:
        return
    smaller = needed["staged"]
    advice = (
        f"memory='staged' needs {_gb(smaller)}"
        if plan.memory == "resident" and smaller <= available_bytes
        else f"no mode fits: staged needs {_gb(smaller)}"
    )
    raise EngineError(
        f"{plan.model} on {plan.device.name}: {plan.memory} needs an estimated "
        f"{_gb(needed[plan.memory])}, {_gb(available_bytes)} are available; {advice}"
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
