"""Sounds beside a bundle's certificate, from the trajectory that its parity files carry. No torch.

A bundle carries latents of the reference, and no decoder of it: both sounds are decoded by the
bundle itself, so that what differs is what rounding did to the trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from omni_rt.bundle import Bundle
from omni_rt.certificate_page import certificate_page
from omni_rt.compare_sounds import (
    REFERENCE_TRAJECTORY,
    Pair,
    compared_sounds,
    reference_sampling,
    retraced,
)
from omni_rt.compare_stages import opened
from omni_rt.compare_steps import has_pair
from omni_rt.engines.registry import AUTO, LoadEngine
from omni_rt.report_page import write_page


def parity_pairs(
    bundle: Bundle,
    *,
    engine: str | LoadEngine = AUTO,
    threads: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Sequence[Pair]:
    """The reference's latents and the bundle's own from the same noise, both as it decodes them.

    One pair, and the work of one whole request; none if the bundle lacks the trajectory, a stage
    that it takes, or the graphs. Raises EngineError if a stage fails or its outputs are not finite.
    """
    how = None if bundle.manifest.left_out else reference_sampling(bundle)
    side = opened(bundle, engine=engine, threads=threads)
    if how is None or "vae_decoder" not in side.stages or not has_pair([side]):
        return []
    tell(f"the reference's trajectory: {how.plan.name}")
    name = f"{REFERENCE_TRAJECTORY} of the parity files, {how.plan.name}; this bundle decodes both"
    reference, own = retraced(side, how)
    rate_hz = bundle.manifest.dims.sample_rate_hz
    return compared_sounds([name], reference, own, rate_hz=rate_hz)[1]


def write_report(bundle: Bundle, path: Path, pairs: Sequence[Pair]) -> Path:
    """Write the page of a bundle's certificate with pairs of `parity_pairs`. Returns its path.

    Raises RequestError if it cannot be written.
    """
    return write_page(certificate_page(bundle, pairs, beside="reference"), path)


def report_beside(bundle: Path) -> Path:
    """Where the page of a bundle lies: BUNDLE.report.html."""
    whole = bundle.resolve()
    return whole.with_name(f"{whole.name}.report.html")
