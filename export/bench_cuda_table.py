"""What `omni-rt bench-cuda` says for people."""

from __future__ import annotations

from omni_rt import terminal
from omni_rt.export.bench_cuda import CudaReport, Rival

_COLUMNS = ("", "ms/step p50", "p90", "× original", "gap µs p50", "p90", "rel. L2", "GB")


def print_report(report: CudaReport) -> None:
    """A table of the rivals, and a line for each of the other findings."""
    terminal.print_table(
        f"{report.device}, torch {report.torch}: {report.depth} blocks of width {report.width}, "
        f"{report.steps} guided steps, {report.runs} runs",
        _COLUMNS,
        [_row(rival) for rival in report.rivals],
    )
    terminal.say(
        f"{report.kernel_cases} cases of the kernels equal the processor's loop to the bit; "
        f"{report.same_bits} of {report.repeats} runs of one seed gave the same bits"
    )
    terminal.say(
        f"16 rows: one graph {report.chain.p50_s * 1e3:.2f} ms "
        f"(p90 {report.chain.p90_s * 1e3:.2f}), replayed {report.replay.p50_s * 1e3:.2f} ms "
        f"(p90 {report.replay.p90_s * 1e3:.2f})"
    )
    terminal.say(
        f"arithmetic: original {report.original_gflop:.0f} GFLOP a step, "
        f"regrouped {report.step_gflop:.0f}"
    )


def _row(rival: Rival) -> tuple[str, ...]:
    gap = rival.gap
    return (
        rival.name,
        f"{rival.per_step.p50_s * 1e3:.3f}",
        f"{rival.per_step.p90_s * 1e3:.3f}",
        f"{rival.ratio:.2f}",
        "" if gap is None else f"{gap.p50_s * 1e6:.1f}",
        "" if gap is None else f"{gap.p90_s * 1e6:.1f}",
        f"{rival.latents_rel_l2:.1e}",
        f"{rival.peak_bytes / 1e9:.2f}",
    )
