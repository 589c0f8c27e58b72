"""`omni-rt plan`: what a model would take on a device, before anything is built or loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from omni_rt import terminal
from omni_rt.architecture import Architecture
from omni_rt.bundle import Bundle
from omni_rt.cli_options import Json, Memory, QwenConfig
from omni_rt.errors import EngineError, RequestError
from omni_rt.manifest import EngineSpec, read_manifest

if TYPE_CHECKING:
    from omni_rt.devices import Device
    from omni_rt.memory_plan import MemoryPlan


class CountConfigured(Protocol):
    """Counts the weights of a model that has only configurations yet."""

    def __call__(self, config: Path, qwen_config: Path | None, /) -> Architecture:
        """Raises ExportError if a configuration cannot be read, or a library is missing."""
        ...


def commands(app: typer.Typer, *, count_configured: CountConfigured) -> None:
    """Mount the command; who mounts it knows how to read configurations."""

    @app.command()
    def plan(
        target: Annotated[
            str, typer.Option(help="The device: rtx4090, orin, …; a wrong one lists them all.")
        ],
        bundle: Annotated[
            Path | None, typer.Argument(help="The bundle's directory.", metavar="BUNDLE")
        ] = None,
        config: Annotated[
            Path | None, typer.Option(help="Instead of a bundle: the model's configuration.")
        ] = None,
        qwen_config: QwenConfig = None,
        mode: Memory = "resident",
        solver: Annotated[str, typer.Option("--plan", help="Solver and steps.")] = "euler-100",
        seconds: Annotated[float, typer.Option(help="Of the sound to make.")] = 10.0,
        rows: Annotated[
            int, typer.Option(help="Of the loop: two per guided request; odd is unguided.", min=1)
        ] = 2,
        prompt_tokens: Annotated[
            int | None,
            typer.Option(help="Of the thinker; a usual text if not given.", min=1),
        ] = None,
        unrounded: Annotated[
            bool, typer.Option("--unrounded", help="As if every matrix were kept in 16 bits.")
        ] = False,
        int8: Annotated[
            bool, typer.Option("--int8", help="As omni-rt quantise --int8 rounds it.")
        ] = False,
        available: Annotated[
            float | None, typer.Option(help="GB of memory; all of the device's if not given.")
        ] = None,
        measured: Annotated[
            Path | None, typer.Option(help="A file of omni-rt bench --save, to show beside it.")
        ] = None,
        as_json: Json = False,
    ) -> None:
        """Estimate time and memory on a GPU: a roofline from sizes and peak figures, not measured.

        omni-rt plan bundle --target rtx4090

        omni-rt plan --config Audio-Omni.json --qwen-config Qwen2.5-Omni-3B/config.json
        --target orin-nano --memory staged

        Times are lower bounds. If the bundle has engines for the device, the activation memory that
        their compiler states (of the largest profile) stands beside the estimate. Ends with exit
        status 1 if the mode would not fit.
        """
        from omni_rt.devices import device_named
        from omni_rt.engine_pool import check_machine
        from omni_rt.memory_plan import Job, check_fits, make_memory_plan
        from omni_rt.plans import make_plan
        from omni_rt.targets import target_as_asked

        with terminal.errors_reported():
            check_machine(None, mode)
            if unrounded and int8:
                raise RequestError("--unrounded and --int8 are two different estimates: give one")
            device = device_named(target)
            job = Job(
                plan=make_plan(solver), duration_s=seconds, rows=rows, prompt_tokens=prompt_tokens
            )
            opened = None if bundle is None else Bundle(bundle, read_manifest(bundle))
            found = make_memory_plan(
                _model(opened, config, qwen_config, count_configured),
                device,
                job,
                memory=mode,  # type: ignore[arg-type]  # checked above
                formats={} if unrounded else target_as_asked(device.target, int8=int8).formats,
                engines=_engines(opened, device),
            )
            if as_json:
                terminal.print_json(found)
            else:
                _print_plan(found, _measured_ms(measured))
            most = device.memory_bytes if available is None else _bytes(available)
            try:
                check_fits(found, most)
            except EngineError as error:
                terminal.missed(str(error))


def _bytes(gigabytes: float) -> int:
    if not math.isfinite(gigabytes):
        raise RequestError(f"--available must be a number of GB, got {gigabytes}")
    return round(gigabytes * 1e9)


def _engines(bundle: Bundle | None, device: Device) -> Mapping[str, EngineSpec]:
    built = None if bundle is None else bundle.manifest.engines.get(device.target)
    return {} if built is None else built.stages


def _model(
    bundle: Bundle | None,
    config: Path | None,
    qwen_config: Path | None,
    count_configured: CountConfigured,
) -> Architecture:
    if (bundle is None) == (config is None):
        raise RequestError("give a bundle, or --config of a model without one")
    if config is not None:
        return count_configured(config, qwen_config)
    assert bundle is not None
    return Architecture.of_bundle(bundle)


def _measured_ms(path: Path | None) -> dict[str, str]:
    """Medians of a benchmark by stage, and where they were measured; empty without one."""
    if path is None:
        return {}
    from omni_rt.latency import LOOP, read

    taken = read(path)
    terminal.say(f"measured: {taken.device}, {taken.engine}")
    names = {LOOP: "dit_step"}
    return {names.get(name, name): _ms(timing.p50_s) for name, timing in taken.stages.items()}


def _print_plan(plan: MemoryPlan, measured: dict[str, str]) -> None:
    _print_times(plan, measured)
    _print_memory(plan)


def _print_times(plan: MemoryPlan, measured: dict[str, str]) -> None:
    rows = [
        (
            name,
            stage.cost.format,
            f"{stage.cost.flops / 1e9:.1f}",
            _mb(stage.cost.moved_bytes),
            "peak" if stage.cost.compute_s >= stage.cost.memory_s else "bandwidth",
            _ms(stage.cost.predicted_s),
            str(stage.calls),
            *([measured.get(name, "")] if measured else []),
        )
        for name, stage in plan.stages.items()
    ]
    columns = ("stage", "format", "GFLOP", "MB", "bound by", "ms", "calls")
    terminal.print_table(
        f"{plan.model} on {plan.device.about}: roofline of a call, not a measurement",
        (*columns, "measured ms") if measured else columns,
        rows,
    )
    windows = f" × {plan.segments} windows" if plan.segments > 1 else ""
    terminal.say(
        f"roofline of {plan.audio_s:g} s of sound from text ({plan.evaluations} steps{windows}): "
        f"at least {plan.request_s:.3g} s, loading left out"
    )


def _print_memory(plan: MemoryPlan) -> None:
    compiled = plan.compiled_activation
    rows = [
        (
            name,
            _mb(stage.memory.weights),
            _mb(stage.memory.activation),
            _mb(stage.memory.buffers),
            _mb(stage.memory.total),
            *([_mb(compiled[name]) if name in compiled else ""] if compiled else []),
        )
        for name, stage in plan.stages.items()
    ]
    columns = ("stage", "weights MB", "activation MB", "buffers MB", "together")
    terminal.print_table(
        "memory while a stage runs: an estimate",
        (*columns, "compiled: activation MB") if compiled else columns,
        rows,
    )
    for name, needed in plan.needed_bytes.items():
        chosen = " (this plan)" if name == plan.memory else ""
        terminal.say(f"{name}: an estimated {needed / 1e9:.2f} GB{chosen}")
    shared = ", shared with the processor" if plan.device.shared else ""
    terminal.say(f"{plan.device.name} has {plan.device.memory_bytes / 1e9:.2f} GB{shared}")


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"
