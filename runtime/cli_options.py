"""Options that several commands share, and how they open a session."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omni_rt import terminal
from omni_rt.engines.registry import AUTO
from omni_rt.session import Session
from omni_rt.uncertified import doubt, unsaid

BundleArgument = Annotated[Path, typer.Argument(help="The bundle's directory.", metavar="BUNDLE")]
BundleOption = Annotated[
    Path,
    typer.Option("--bundle", "-b", envvar="OMNI_RT_BUNDLE", help="The bundle's directory."),
]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", help="Where to write: .wav, .flac, .ogg or .mp3."),
]
VideoOutput = Annotated[
    Path,
    typer.Option("--output", "-o", help="Where to write: .wav, .flac, .ogg, .mp3, or .mp4 (V2A)."),
]
Threads = Annotated[int | None, typer.Option(help="Processor threads; all if not given.", min=1)]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        help="Library that runs the graphs: auto (onnxruntime), openvino, …; see `omni-rt doctor`.",
    ),
]
GpuNumber = Annotated[
    int | None,
    typer.Option("--gpu", help="Which GPU, for engines that run on one; the first is 0.", min=0),
]
CudaGraphName = Annotated[
    str,
    typer.Option(
        "--cuda-graph",
        help="In the CUDA loop: step, or chain (plans of at most 16 rows as one graph, which shows "
        "no progress).",
    ),
]
Config = Annotated[Path, typer.Option(help="The model's configuration (JSON).")]
QwenConfig = Annotated[
    Path | None, typer.Option(help="config.json of the thinker; without it, the rest alone.")
]
NewBundle = Annotated[Path, typer.Option(help="The bundle to make: a new directory.")]
Overwrite = Annotated[bool, typer.Option(help="Replace the bundle that is at OUT.")]
Stages = Annotated[
    str | None, typer.Option(help="Only these stages, comma-separated; all if not given.")
]
Depth = Annotated[int | None, typer.Option(help="Blocks, instead of the configuration's.", min=1)]
WeightsSeed = Annotated[int, typer.Option(help="Seed of the weights.")]
CasesSeed = Annotated[int, typer.Option(help="Of the cases and their noise.", min=0)]
CasesAudio = Annotated[
    Path | None, typer.Option(help="Folder of your own sounds to use for the cases.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Uncertified = Annotated[
    bool, typer.Option("--allow-uncertified", help="Run a bundle whose parity is not proved.")
]
PlanName = Annotated[
    str | None,
    typer.Option(
        "--plan",
        help="Solver and steps: euler-N, ab2-N, ab3-N, abm2-N, heun-N, dpmpp2m-N, consistency-N; "
        "a plan of the bundle's own, such as ls3-16; or a preset that it offers (omni-rt presets).",
    ),
]
Shift = Annotated[
    float | None,
    typer.Option(help="Warp the plan's times: above 1 spends more steps near the noise."),
]
GUIDANCE = ("--cfg-scale", "--cfg")  # the option's names; its texts differ
CfgScale = Annotated[
    float | None,
    typer.Option(
        *GUIDANCE, help="Guidance: 1 is none; the bundle's own if not given, 7 officially."
    ),
]
Rescale = Annotated[float, typer.Option(help="Guidance rescale φ, 0 to 1.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same sound.")]
Negative = Annotated[str | None, typer.Option(help="What should not be heard.")]
Raw = Annotated[bool, typer.Option("--raw", help="Do not normalise the peak.")]
Memory = Annotated[str, typer.Option("--memory", help="resident or staged.")]
FrameRuleName = Annotated[
    str | None,
    typer.Option(
        help="time_correct (default) takes a video's frames by their time, upstream_compat by "
        "their number."
    ),
]
SmallFrames = Annotated[
    bool,
    typer.Option(
        "--small-frames",
        help="Show the thinker 224 x 224 pixels: half the tokens, not what the original does.",
    ),
]
AllowDamaged = Annotated[
    bool, typer.Option("--allow-damaged", help="Go on where a video cannot be decoded.")
]


def open_session(
    bundle: Path,
    *,
    engine: str = AUTO,
    threads: int | None = None,
    memory: str = "resident",
    gpu: int | None = None,
    cuda_graph: str = "step",
    uncertified: bool = False,
) -> Session:
    """A session, its bundle verified behind a progress bar; says what it takes of a GPU."""
    with terminal.progress_bars() as bars, unsaid():
        session = Session(
            bundle,
            device="auto" if gpu is None else f"cuda:{gpu}",
            engine=engine,
            threads=threads,
            memory=memory,  # type: ignore[arg-type]  # checked there, with a better message
            cuda_graph=cuda_graph,  # type: ignore[arg-type]  # likewise
            allow_uncertified=uncertified,
            progress=bars("verifying the bundle"),
        )
    found = doubt(session.bundle, engine) if uncertified else None
    if found is not None:
        terminal.note(f"warning: {found}")
    if session.gpu_estimate is not None:
        terminal.note(str(session.gpu_estimate))
    return session
