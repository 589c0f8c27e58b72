"""What a score run says on a terminal. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from omni_rt import terminal
from omni_rt.export.miniature.against import Against
from omni_rt.export.miniature.report import Check, KindScores, ScoreReport


def told(scores: KindScores) -> str:
    """One line on a kind that is done."""
    if scores.passed is None:
        return f"{scores.kind}: {scores.reason}"
    return f"{scores.kind}: {100 * scores.passed.share.passed:.1f} % right, {scores.seconds:.1f} s"


def print_report(report: ScoreReport) -> None:
    """Tables of shares and of what was measured, and why kinds have none."""
    title = f"{report.name} {report.bundle}: plan {report.plan}, guidance {report.cfg_scale:g}"
    columns = ("kind", "check", "reached %", "95 %", "chance %", "n")
    terminal.print_table(title, columns, [row for k in report.kinds for row in _check_rows(k)])
    measured = [
        (scores.kind, name, f"{m.mean:.3g}", f"{m.median:.3g}", str(m.count))
        for scores in report.kinds
        for name, m in scores.measures.items()
    ]
    if measured:
        terminal.print_table("measured", ("kind", "value", "mean", "median", "n"), measured)
    for reason, without in _reasons(report.kinds).items():
        terminal.say(f"no scores for {', '.join(without)}: {reason}")


def _check_rows(scores: KindScores) -> list[tuple[str, ...]]:
    if scores.passed is None:
        return [(scores.kind, scores.status, "", "", "", "0")]
    checks: Mapping[str, Check] = scores.checks
    if len(checks) > 1:
        checks = {**checks, "all": scores.passed}
    return [
        (
            scores.kind,
            name,
            f"{100 * check.share.passed:.1f}",
            f"{100 * check.share.low:.1f} to {100 * check.share.high:.1f}",
            f"{100 * check.chance:.1f}",
            str(check.share.count),
        )
        for name, check in checks.items()
    ]


def print_against(beside: Against) -> None:
    """A table of both runs, and of what the other is."""
    rows = [
        (
            kind,
            *(f"{100 * share:.1f}" for share in (one.reference, one.share, one.chance)),
            f"{one.drop:.1f}",
            f"{one.upper:.1f}",
        )
        for kind, one in beside.kinds.items()
    ]
    columns = ("kind", "before %", "this %", "chance %", "drop, points", "95 % below")
    terminal.print_table(f"before: {beside.described}", columns, rows)
    if not rows:
        terminal.say("no kind was scored in both runs")


def _reasons(kinds: Iterable[KindScores]) -> dict[str, list[str]]:
    """Why there are no scores → the kinds without."""
    found: dict[str, list[str]] = {}
    for scores in kinds:
        if scores.reason is not None:
            found.setdefault(scores.reason, []).append(scores.kind)
    return found
