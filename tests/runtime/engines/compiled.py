"""The tiny bundle with engines of every stage, for two targets, signed by this user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from omni_rt.bundle import Bundle
from omni_rt.engines.engine_key import identity_of, own_key, signature
from omni_rt.manifest import EngineSpec, ProfileSpec, TargetEngines
from tests.runtime.tiny_bundle import STAGES, rewrite, write_tiny_bundle

CAPABILITIES = {"rtx4090": "8.9", "rtx5090": "12.0"}
BUCKETS = (8, 16)  # context tokens


def step_profiles() -> tuple[ProfileSpec, ...]:
    """Of every bucket, unguided and guided."""
    return tuple(
        ProfileSpec(sizes={"P": (p, p, p), "R": (r, r, r), "Q": (1, 1, r)}, activation_bytes=1000)
        for p in BUCKETS
        for r in (1, 2)
    )


def engine_spec(bundle: Bundle, target: str, stage: str) -> EngineSpec:
    """What a build says of a plan; not signed yet."""
    return EngineSpec(
        path=f"engines/{target}/{stage}.plan",
        graph=bundle.graph_digest(stage),
        base_type="float16",
        profiles=step_profiles() if stage == "dit_step" else (),
        weight_bytes=5000,
        build_s=1.0,
        build_peak_rss_bytes=1,
        rounded_products=0,
        fused_attentions=0,
        attentions=0,
        signature="",
    )


def signed_engines(
    bundle: Bundle,
    target: str,
    stages: tuple[str, ...],
    capability: str,
    *,
    plan: bytes | None = None,
) -> TargetEngines:
    """Engines of stages, their plans (or this one) written into the bundle."""
    specs = {stage: engine_spec(bundle, target, stage) for stage in stages}
    engines = TargetEngines(
        library="tensorrt_rtx", version="1.7.1", compute_capability=capability, stages=specs
    )
    for stage, spec in specs.items():
        content = f"plan of {stage} for {target}".encode() if plan is None else plan
        path = bundle.path(spec.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        said = signature(own_key(), content, **identity_of(engines, stage))
        specs[stage] = replace(spec, signature=said)
    return replace(engines, stages=specs)


def write_compiled_bundle(folder: Path, *, stages: tuple[str, ...] = STAGES) -> Bundle:
    """The tiny bundle with engines of these stages."""
    manifest = write_tiny_bundle(folder)
    bundle = Bundle(folder, manifest)
    engines = {
        target: signed_engines(bundle, target, stages, capability)
        for target, capability in CAPABILITIES.items()
    }
    rewrite(folder, manifest, engines=engines)
    return Bundle.open(folder)
