"""What `omni-rt bench-cuda` says for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omni_rt import terminal
from omni_rt.bench_loop import LoopReport

if TYPE_CHECKING:  # which needs torch
    from omni_rt.export.bench_cuda import CudaReport, Rival

_COLUMNS = ("", "ms/step p50", "p90", "× original", "idle µs p50", "p90", "rel. L2", "GB")


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


def print_loop(report: LoopReport) -> None:
    """A bundle's step by mode."""
    rows = [
        (
            mode,
            f"{times.per_step.p50_s * 1e3:.3f}",
            f"{times.per_step.p90_s * 1e3:.3f}",
            f"{times.idle.p50_us:.1f}",
            f"{times.idle.p90_us:.1f}",
        )
        for mode, times in report.modes.items()
    ]
    terminal.print_table(
        f"{report.device}, {report.engine}: {report.steps} steps at guidance {report.cfg_scale:g}",
        ("", "ms/step p50", "p90", "idle µs p50", "p90"),
        rows,
    )
    terminal.say(
        f"captured steps are {report.ratio:.2f} times as fast as enqueued ones; "
        f"{report.same_bits} of {report.repeats} runs of one seed gave the same bits"
    )


def _row(rival: Rival) -> tuple[str, ...]:
    idle = rival.idle
    return (
        rival.name,
        f"{rival.per_step.p50_s * 1e3:.3f}",
        f"{rival.per_step.p90_s * 1e3:.3f}",
        f"{rival.ratio:.2f}",
        "" if idle is None else f"{idle.p50_us:.1f}",
        "" if idle is None else f"{idle.p90_us:.1f}",
        f"{rival.latents_rel_l2:.1e}",
        f"{rival.peak_bytes / 1e9:.2f}",
    )
