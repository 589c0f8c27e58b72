"""What `omni-rt compare` found, as a page."""

from __future__ import annotations

from collections.abc import Sequence

from omni_rt import report_page as html
from omni_rt.certificate_page import spectrograms
from omni_rt.compare import Compared
from omni_rt.compare_tables import conditions, summary, tables
from omni_rt.comparison import Comparison, Verdict
from omni_rt.report_page import Html
from omni_rt.svg_plots import bar_chart, line_plot


def compare_page(compared: Compared, verdicts: Sequence[Verdict] = ()) -> str:
    """The page of a comparison, as HTML: tables, plots, and spectrograms of what both made."""
    found = compared.comparison
    parts = [
        html.heading(summary(found), level=1),
        html.paragraph(conditions(found), quiet=True),
        *_budgets(verdicts),
    ]
    for table in tables(found):
        parts.append(html.heading(table.title[:1].upper() + table.title[1:]))
        parts.append(html.table(table.columns, table.rows))
        if table.title == "bundles":
            parts += _sizes(found)
        elif table.title.startswith("velocity"):
            parts += _velocity(found)
    if found.notes:
        parts += [html.heading("Not compared"), html.listing(found.notes)]
    names = ("reference", "A") if found.b is None else ("A", "B")
    parts += spectrograms(compared.pairs, *names)
    return html.page(summary(found), parts)


def _budgets(verdicts: Sequence[Verdict]) -> list[Html]:
    if not verdicts:
        return []
    rows = [
        (
            v.budget,
            f"{v.bound:g}",
            "not measured" if v.worst is None else f"{v.worst:.4g}",
            v.where,
            html.mark(v.passed, bad="MISSED"),
        )
        for v in verdicts
    ]
    return [html.heading("Budgets"), html.table(("budget", "bound", "worst", "where", ""), rows)]


def _sizes(found: Comparison) -> list[Html]:
    sides = [found.a] if found.b is None else [found.a, found.b]
    shared = [s for s in found.a.stages if all(s in side.stages for side in sides)]
    rows = {stage: [side.stages[stage].size_bytes / 1e6 for side in sides] for stage in shared}
    chart = bar_chart(
        rows, list("AB"[: len(sides)]), title="Size of every stage in MB", unit="MB", digits=2
    )
    return [html.figure(chart, caption="Graph and weights of every stage that they have.")]


def _velocity(found: Comparison) -> list[Html]:
    plot = line_plot(
        {
            "both branches": [(v.t, v.rel_l2) for v in found.velocity],
            "guided": [(v.t, v.guided_rel_l2) for v in found.velocity],
        },
        title="Difference of the velocities over time",
        x="time t, from noise (1) to latents (0)",
        y="relative L2",
        falling=True,
    )
    return [html.figure(plot, caption="B's velocity against A's, both at A's states.")]
