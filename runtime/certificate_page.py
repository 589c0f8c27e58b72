"""A bundle's certificate as a page: what was measured, its bounds, and what it sounds like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omni_rt import report_page as html
from omni_rt.audio import Audio
from omni_rt.bundle import Bundle
from omni_rt.certificate_rounding import footnote, rounding_sections
from omni_rt.errors import BundleError
from omni_rt.manifest import Certificate, Manifest, Measurement
from omni_rt.report_page import Html
from omni_rt.svg_plots import bar_chart, spectrogram_plot

Pairs = Sequence[tuple[str, Audio, Audio]]


def certificate_page(bundle: Bundle, pairs: Pairs = (), *, beside: str = "unrounded") -> str:
    """The page of a bundle's parity certificate, as HTML.

    pairs: name, the sound of what it stands `beside`, this bundle's. A bundle without a certificate
    has a page too, which says so.
    """
    manifest = bundle.manifest
    parts = [*_summary(bundle), *_sizes(manifest)]
    certificate = manifest.certificate
    if certificate is not None:
        origins: list[str] = []
        parts += _measurements(certificate, origins)
        if certificate.rounding is not None:
            parts += rounding_sections(certificate.rounding, origins)
        parts += [html.heading("Where the bounds come from"), html.listing(origins, numbered=True)]
    if manifest.engines:
        parts += _engines(manifest)
    parts += spectrograms(pairs, beside, "this bundle")
    return html.page(_title(manifest), parts)


def spectrograms(pairs: Pairs, first: str, second: str) -> list[Html]:
    """A section with the spectrograms of every pair; nothing if there is none."""
    if not pairs:
        return []
    figures = [
        html.figure(
            spectrogram_plot({first: one, second: other}, title=f"Spectrograms: {name}"),
            caption=name,
        )
        for name, one, other in pairs
    ]
    words = "Brightness is alike in both of a pair; 60 dB below the loudest piece it is dark."
    return [html.heading("Sound"), html.paragraph(words), *figures]


def _title(manifest: Manifest) -> str:
    rounding = None if manifest.certificate is None else manifest.certificate.rounding
    target = "" if rounding is None else f" for {rounding.target}"
    return f"{manifest.name}{target}: parity certificate"


def _summary(bundle: Bundle) -> list[Html]:
    manifest, certificate = bundle.manifest, bundle.manifest.certificate
    dims = manifest.dims
    try:
        bundle.require_certificate()
        verdict = html.mark(True, good="certified:")
        state = (
            "everything that was measured is within its bound, and the files are the measured ones."
        )
    except BundleError as error:
        verdict, state = html.mark(False, bad="not certified:"), f"{str(error).split(';')[0]}."
    facts = [
        f"id {bundle.id}; weights: {manifest.weights_licence}",
        f"transformer {dims.width} wide, {dims.depth} deep, {dims.heads} heads; "
        f"{dims.clip_samples / dims.sample_rate_hz:.2f} s at {dims.sample_rate_hz} Hz, "
        f"{dims.audio_channels} channels",
        f"made by omni_rt {manifest.provenance.get('omni_rt', '(unknown)')}; "
        f"default plan {manifest.default_plan}",
    ]
    if certificate is not None:
        facts.append(f"measured against {certificate.reference}, run by {certificate.library}")
        rounding = certificate.rounding
        if rounding is None:
            facts.append("nothing is rounded")
        else:
            facts.append(
                f"rounded for target {rounding.target} from bundle {rounding.source}; "
                f"ranges observed on inputs {rounding.inputs}"
            )
    return [
        html.heading(_title(manifest), level=1),
        html.paragraph(verdict, state),
        html.listing(facts),
    ]


def _sizes(manifest: Manifest) -> list[Html]:
    sizes = {
        stage: sum(manifest.files[path].size_bytes for path in (graph.path, *graph.data)) / 1e6
        for stage, graph in manifest.graphs.items()
    }
    total, absent = manifest.size_bytes / 1e6, manifest.left_out
    rows = [
        (stage, manifest.graphs[stage].precision, f"{size:.2f}") for stage, size in sizes.items()
    ]
    return [
        html.heading("Sizes"),
        html.paragraph(
            f"{total:.2f} MB on disk in all, with text and parity files. "
            "Weights that stages share count for each of them."
            + (" The files below stayed behind when its engines were packed." if absent else "")
        ),
        html.table(("stage", "precision", "MB"), rows),
        html.figure(
            bar_chart(
                {stage: (size,) for stage, size in sizes.items()},
                ["graph and weights"],
                title="Size of every stage in MB",
                unit="MB",
                digits=2,
            ),
            caption="Graph and weights of every stage.",
        ),
    ]


def _measurements(certificate: Certificate, origins: list[str]) -> list[Html]:
    columns = ("output", "rel. L2", "bound", "origin", "cosine", "SNR dB", "max abs", "")
    measured = {**certificate.stages, **certificate.end_to_end}
    rows = [_measurement_row(name, m, origins) for name, m in measured.items()]
    return [
        html.heading("Parity"),
        html.paragraph(
            "Every output beside the reference's on the same inputs: relative L2 is the size of "
            "the difference over the size of the reference's output."
        ),
        html.table(columns, rows),
    ]


def _engines(manifest: Manifest) -> list[Html]:
    """What was compiled, what the compiler proved of it, and what was measured on a GPU."""
    parts = [html.heading("Engines")]
    for target, engines in manifest.engines.items():
        sm = "sm_" + engines.compute_capability.replace(".", "")
        parts.append(
            html.paragraph(f"{target}: {engines.library} {engines.version}, {sm}; {engines.known}.")
        )
        found = engines.on_device
        on_device = {} if found is None else {**found.stages, **found.end_to_end}
        rows = [
            (
                stage,
                spec.base_type,
                str(spec.rounded_products),
                f"{spec.fused_attentions} of {spec.attentions}",
                f"{manifest.files[spec.path].size_bytes / 1e6:.2f}",
                *_worst(stage, on_device),
            )
            for stage, spec in engines.stages.items()
        ]
        columns = ("stage", "not rounded", "rounded products", "fused", "MB", "on the GPU", "")
        parts.append(html.table(columns, rows))
    return parts


def _worst(stage: str, measured: Mapping[str, Measurement]) -> tuple[str, Html]:
    """The output of a stage that is nearest to its bound, or beyond it."""
    own = [m for name, m in measured.items() if name.split("/")[0] == stage]
    if not own:
        return "not run", Html("")
    worst = max(own, key=lambda m: m.rel_l2 / m.bound_rel_l2)
    return f"{worst.rel_l2:.2e}, at most {worst.bound_rel_l2:.2g}", html.mark(worst.passed)


def _measurement_row(name: str, m: Measurement, origins: list[str]) -> tuple[str, ...]:
    snr = "exact" if m.rel_l2 == 0 else "none" if m.snr_db is None else f"{m.snr_db:.1f}"
    return (
        name,
        "0" if m.rel_l2 == 0 else f"{m.rel_l2:.2e}",
        f"≤ {m.bound_rel_l2:.2g}",
        footnote(m.origin, origins),
        f"{m.cosine:.6f}",
        snr,
        "0" if m.max_abs == 0 else f"{m.max_abs:.1e}",
        html.mark(m.passed),
    )
