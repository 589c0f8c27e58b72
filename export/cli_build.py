"""`omni-rt build` and `pack`: engines for a GPU, compiled and brought to it. Needs no torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from omni_rt import terminal
from omni_rt.cli_options import Json, Overwrite, Stages
from omni_rt.errors import ExportError, RequestError
from omni_rt.manifest import TargetEngines

_MB = 1e6


def commands(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(build)
    app.command()(pack)
    app.command("trust-key")(trust_key)


def build(
    bundle: Annotated[Path, typer.Argument(help="A bundle that was quantised for the target.")],
    target: Annotated[str, typer.Option(help="What to compile for; a wrong one lists them all.")],
    out: Annotated[Path, typer.Option(help="The bundle to make: the same with engines.")],
    stages: Stages = None,
    contexts: Annotated[
        str | None,
        typer.Option(help="Buckets of prompts: tokens, comma-separated; 320 to 2304 if not given."),
    ] = None,
    requests: Annotated[int, typer.Option(help="Requests of the largest batch.", min=1)] = 1,
    library: Annotated[
        str | None, typer.Option(help="tensorrt_rtx or tensorrt, if not the target's.")
    ] = None,
    compute_capability: Annotated[
        str | None, typer.Option(help="As 8.6, if not the target's: to compile for another GPU.")
    ] = None,
    sign_key: Annotated[
        Path | None, typer.Option(help="Key of a build host, to sign with instead of your own.")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File of kernel timings to use and to add to (tensorrt).")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compile every stage of a bundle for a GPU, and prove that what is rounded runs rounded.

    omni-rt build bundle-fp8 --target rtx4090 --out bundle-rtx4090

    For RTX cards on any machine; for --target orin on the device itself. The compiler's own
    description of every engine is read: a product that it would compute in more bits than the graph
    says fails the build, by name.
    """
    with terminal.errors_reported():
        _require_libraries()
        from omni_rt.cuda_loop import TOKEN_BUCKETS
        from omni_rt.export.engines.bundle_engines import BuildOptions, build_engines
        from omni_rt.export.engines.profiles import Buckets
        from omni_rt.manifest import read_manifest

        options = BuildOptions(
            bundle=bundle,
            out=out,
            target=target,
            stages=tuple(name for name in (stages or "").split(",") if name),
            buckets=Buckets(contexts=_numbers(contexts) or TOKEN_BUCKETS, requests=requests),
            library=library,
            compute_capability=compute_capability,
            sign_key=sign_key,
            timing_cache=timing_cache,
            overwrite=overwrite,
        )
        with terminal.stage_notes(quiet=as_json) as tell:
            build_engines(options, progress=tell, detail=tell.detail)
        engines = read_manifest(out).engines[target]
        if as_json:
            terminal.print_json(engines)
        else:
            _print(engines, out)


def pack(
    bundle: Annotated[Path, typer.Argument(help="A bundle with engines: omni-rt build.")],
    target: Annotated[str, typer.Option(help="Whose engines to keep; a wrong one lists them.")],
    out: Annotated[Path, typer.Option(help="The bundle to make.")],
    engines_only: Annotated[
        bool,
        typer.Option("--engines-only", help="Leave out graphs and their weights: engines alone."),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Copy what one kind of device needs of a bundle: the engines of its target and no others.

    omni-rt pack bundle-rtx4090 --target rtx4090 --engines-only --out for-the-card

    With --engines-only the portable graphs stay behind, so that no other library runs the result,
    and nothing can be built or rounded from it; its certificate and engines are still held to those
    graphs by their hashes, and omni-rt verify still measures it.
    """
    with terminal.errors_reported():
        from omni_rt.export.engines.packed import pack as packed

        with terminal.stage_notes(quiet=as_json) as tell:
            manifest = packed(
                bundle, out, target, engines_only=engines_only, overwrite=overwrite, progress=tell
            )
        if as_json:
            terminal.print_json(
                {"size_bytes": manifest.size_bytes, "left_out": list(manifest.left_out)}
            )
            return
        without = f", without {len(manifest.left_out)} files of graphs" if engines_only else ""
        terminal.say(f"{out} written: {manifest.size_bytes / _MB:.1f} MB{without}")


def trust_key(
    key: Annotated[Path, typer.Argument(help="A build host's key: 32 bytes, chmod 600.")],
) -> None:
    """Load engines that were signed with this key from now on, as if you had built them."""
    with terminal.errors_reported():
        from omni_rt.engines.engine_key import trust

        terminal.say(f"trusted: {trust(key)}")


def _require_libraries() -> None:
    if find_spec("onnx_ir") is None:
        raise ExportError("onnx_ir is missing: pip install 'omni_rt[build]'")


def _numbers(text: str | None) -> tuple[int, ...]:
    """None: none."""
    try:
        return () if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise RequestError(f"--contexts: {text!r} are no whole numbers, comma-separated") from None


def _print(engines: TargetEngines, out: Path) -> None:
    rows = [
        (
            stage,
            f"{spec.build_s:.1f}",
            f"{spec.build_peak_rss_bytes / _MB:.0f}",
            f"{(out / spec.path).stat().st_size / _MB:.1f}",
            f"{spec.weight_bytes / _MB:.1f}",
            f"{spec.profiles[0].activation_bytes / _MB:.1f} to "
            f"{max(p.activation_bytes for p in spec.profiles) / _MB:.1f}",
            str(len(spec.profiles)),
            f"{spec.rounded_products}",
            f"{spec.fused_attentions} of {spec.attentions}",
            spec.base_type,
        )
        for stage, spec in engines.stages.items()
    ]
    columns = (
        "stage", "s", "RSS MB", "plan MB", "weights MB", "activation MB", "profiles", "rounded",
        "fused", "other",
    )  # fmt: skip
    device = "sm_" + engines.compute_capability.replace(".", "")
    terminal.print_table(
        f"{engines.library} {engines.version} for {device}: compiled and proved, not run; "
        "rounded products and fused attentions are counted in every profile",
        columns,
        rows,
    )
    for stage, spec in engines.stages.items():
        if spec.base_reason:
            terminal.say(f"{stage} computes in {spec.base_type}: {spec.base_reason}")
    terminal.say(f"{out} written")
