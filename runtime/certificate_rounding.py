"""The part of a certificate's page about rounding: what it changed, and what was spared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omni_rt import report_page as html
from omni_rt.base_types import FP16_MAX, HEADROOM, USUAL, outgrows_fp16
from omni_rt.manifest import BaseType, Behaviour, Figure, Rounding
from omni_rt.report_page import Html
from omni_rt.svg_plots import bar_chart, line_plot

_MOST_BARS = 24
_SHORT: Mapping[BaseType, str] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def footnote(origin: str, origins: list[str]) -> str:
    """The number of an origin in the list below."""
    if origin not in origins:
        origins.append(origin)
    return f"[{origins.index(origin) + 1}]"


def rounding_sections(rounding: Rounding, origins: list[str]) -> list[Html]:
    """Velocity, end to end, behaviour, largest values, sensitivity.

    `origins` collects where bounds come from.
    """
    parts = []
    if rounding.velocity:
        points = sorted(((v.t, v.rel_l2) for v in rounding.velocity), reverse=True)
        plot = line_plot(
            {"velocity": points},
            title="Error of the velocity over time",
            x="time t, from noise (1) to latents (0)",
            y="relative L2",
            falling=True,
        )
        caption = "How far rounding moves the velocity, at states of the unrounded trajectory."
        parts += [html.heading("Velocity over time"), html.figure(plot, caption=caption)]
    if rounding.figures:
        parts += [html.heading("End to end"), _figures(rounding.figures, origins)]
    if rounding.behaviour:
        parts += [html.heading("Behaviour"), *_behaviour(rounding.behaviour, origins)]
    if rounding.largest:
        parts += [html.heading("Largest values"), *_largest(rounding.largest)]
    return [*parts, *_spared(rounding)]


def _largest(largest: Mapping[str, float]) -> list[Html]:
    words = (
        "The largest that the products of each stage read or put out while ranges were observed, "
        f"smoothing folded in. fp16 ends at {FP16_MAX:.0f}: a stage that is otherwise compiled in "
        f"fp16 and comes within a factor of {HEADROOM:g} of that is compiled in bf16."
    )
    rows = [
        (
            stage,
            f"{value:.4g}",
            f"{100 * value / FP16_MAX:.3g}",
            "bf16" if outgrows_fp16(stage, value) else _SHORT[USUAL[stage]],
            "too large for fp16" if outgrows_fp16(stage, value) else "",
        )
        for stage, value in largest.items()
        if stage in USUAL
    ]
    columns = ("stage", "largest", "% of fp16's range", "compiled in", "")
    return [html.paragraph(words), html.table(columns, rows)]


def _figures(figures: Mapping[str, Figure], origins: list[str]) -> Html:
    rows = [
        (
            name,
            f"{figure.value:.4g} {figure.unit}".rstrip(),
            _bound(figure),
            footnote(figure.origin, origins),
            html.mark(figure.passed),
        )
        for name, figure in figures.items()
    ]
    caption = "Latents and sound after whole trajectories, at equal noise."
    return html.table(("figure", "value", "bound", "origin", ""), rows, caption=caption)


def _bound(figure: Figure) -> str:
    return f"{'≥' if figure.at_least else '≤'} {figure.bound:.4g} {figure.unit}".rstrip()


def _behaviour(behaviour: Mapping[str, Behaviour], origins: list[str]) -> list[Html]:
    columns = ("kind", "plan", "n", "without %", "with %", "chance %", "drop, upper 95 %", "bound")
    shares = {
        kind: (100 * b.reference, 100 * b.share, 100 * b.chance) for kind, b in behaviour.items()
    }
    chart = bar_chart(
        shares,
        ["without rounding", "with rounding", "chance"],
        title="Share of results that are right, in percent",
        unit="%",
    )
    words = (
        "Is what comes out what was asked for? The same examples and noise, without and with "
        "rounding; chance is what a guess would reach. The drop is in points, and held to its "
        "bound by the upper end of its 95 % bootstrap interval."
    )
    rows = [_behaviour_row(kind, b, origins) for kind, b in behaviour.items()]
    return [
        html.paragraph(words),
        html.table((*columns, "origin", ""), rows),
        html.figure(chart, caption="Right results by kind of example."),
    ]


def _behaviour_row(kind: str, b: Behaviour, origins: list[str]) -> tuple[str, ...]:
    return (
        kind,
        b.plan,
        str(b.count),
        *(f"{100 * share:.1f}" for share in (b.reference, b.share, b.chance)),
        f"{b.drop.value:.2f} {b.drop.unit}".rstrip(),
        _bound(b.drop),
        footnote(b.drop.origin, origins),
        html.mark(b.drop.passed),
    )


def _spared(rounding: Rounding) -> list[Html]:
    parts = [html.heading("High precision")]
    if rounding.high_precision:
        words = "of the matrices that could be rounded are not:"
        parts += _listed(rounding.high_precision, words)
    else:
        parts.append(html.paragraph("Every matrix that could be rounded is."))
    if rounding.weights_only:
        words = "are stored rounded, and multiplied with activations that are not:"
        parts += _listed(rounding.weights_only, words)
    if rounding.per_token:
        words = "read activations with a scale for each token:"
        parts += _listed(rounding.per_token, words)
    if rounding.centred:
        words = "read activations less a constant vector, whose products are added exactly:"
        parts += _listed(rounding.centred, words)
    searched = rounding.sensitivity or rounding.weights_sensitivity
    return parts + (_sensitivity(rounding) if searched else [])


def _listed(names: Sequence[str], words: str) -> list[Html]:
    listed = html.listing(html.code(name) for name in names)
    short = len(names) <= _MOST_BARS
    return [
        html.paragraph(f"{len(names)} {words}"),
        listed if short else html.details("All of them", listed),
    ]


def _sensitivity(rounding: Rounding) -> list[Html]:
    full, alone = rounding.sensitivity, rounding.weights_sensitivity
    worst = {name: max(full.get(name, 0), alone.get(name, 0)) for name in (*full, *alone)}
    order = sorted(worst, key=lambda name: worst[name], reverse=True)
    kept, weights_only = set(rounding.high_precision), set(rounding.weights_only)
    rows = [
        (
            html.code(name),
            _error(full.get(name)),
            _error(alone.get(name)),
            "high precision" if name in kept else "weights" if name in weights_only else "rounded",
        )
        for name in order
    ]
    series = {"if this alone is rounded": full, "if its weights alone are": alone}
    shown_series = {label: errors for label, errors in series.items() if errors}
    chart = bar_chart(
        {
            name: tuple(100 * errors.get(name, 0) for errors in shown_series.values())
            for name in order[:_MOST_BARS]
        },
        [f"error of the velocity {label}" for label in shown_series],
        title="Sensitivity of the groups of matrices",
        unit="%",
        digits=2,
    )
    words = (
        "Groups of the step's matrices that read one activation, by what rounding each alone, or "
        "only its weights, does to the guided velocity (relative L2); a group has the name of its "
        "first matrix."
    )
    shown = f"The {len(order[:_MOST_BARS])} most sensitive of {len(order)}."
    table = html.table(("group", "rel. L2", "weights alone", "now"), rows)
    return [
        html.heading("Sensitivity"),
        html.paragraph(words),
        html.figure(chart, caption=shown),
        html.details("All of them", table),
    ]


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.2e}"
