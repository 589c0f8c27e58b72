"""The commands that make sound: `omni-rt generate` and `omni-rt edit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from omni_rt import terminal
from omni_rt.audio import Audio, check_target
from omni_rt.cli_options import (
    AllowDamaged,
    BundleOption,
    CfgScale,
    CudaGraphName,
    EngineName,
    FrameRuleName,
    GpuNumber,
    Json,
    Memory,
    Negative,
    Output,
    PlanName,
    Raw,
    Rescale,
    Seed,
    Shift,
    SmallFrames,
    Threads,
    Uncertified,
    VideoOutput,
    open_session,
)
from omni_rt.engines.registry import AUTO
from omni_rt.errors import RequestError
from omni_rt.mux import VIDEO_SUFFIXES, check_video_target, with_sound
from omni_rt.plans import Plan, make_plan
from omni_rt.session import Session
from omni_rt.video import probe

_LONGER_S = 0.1  # than the picture, that is cut without a word


def commands(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(generate)
    app.command()(edit)


def _shifted(
    session: Session, plan: str | None, cfg_scale: float | None, shift: float | None
) -> str | Plan | None:
    """The same analytic plan on warped times, if it is to be warped."""
    if shift is None:
        return plan
    found = session.plan(plan, cfg_scale=cfg_scale)
    if found.method is None:
        raise RequestError(f"plan {found.name!r} is fitted to its times: --shift cannot warp them")
    return make_plan(f"{found.method}-{found.steps}", shift=shift)


@contextmanager
def _writable(
    output: Path, raw: bool, video: Path | None = None, duration_s: float | None = None
) -> Iterator[None]:
    """Refuse an output before the work is done for it."""
    if output.suffix.lower() in VIDEO_SUFFIXES:
        check_video_target(output)
        if video is None:
            raise RequestError(f"cannot write {output.name}: only V2A and V2M make a video")
        info = probe(video)
        if info.is_image:
            raise RequestError(f"cannot write {output.name}: a picture does not move; use .wav")
        if duration_s is not None and duration_s > info.duration_s + _LONGER_S:
            raise RequestError(
                f"cannot write {output.name}: the video lasts {info.duration_s:.2f} s; "
                "use .wav for longer sound"
            )
    else:
        check_target(output)
    if raw and output.suffix.lower() != ".wav":
        raise RequestError("--raw may exceed full scale: write a .wav")
    yield


def _finish(audio: Audio, output: Path, as_json: bool, video: Path | None = None) -> None:
    if video is not None and output.suffix.lower() in VIDEO_SUFFIXES:
        with_sound(video, audio, output)
    else:
        audio.save(output)
    if as_json:
        terminal.print_json({"file": output, "duration_s": audio.duration_s, **audio.made})
    else:
        terminal.say(f"{output}: {audio.duration_s:.2f} s, seed {audio.made['seed']}")


def generate(
    task: Annotated[str, typer.Argument(help="T2A, T2M, V2A, V2M, TTS or VC.", metavar="TASK")],
    bundle: BundleOption,
    output: VideoOutput,
    prompt: Annotated[str | None, typer.Option(help="What to make, or for TTS the words.")] = None,
    video: Annotated[
        Path | None, typer.Option(help="V2A, V2M: the video, or a picture, to make sound for.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(help="A recording to go by; --prompt says what to make of it.")
    ] = None,
    voice: Annotated[
        Path | None, typer.Option(help="A recording whose voice is to speak (first 6 s are used).")
    ] = None,
    voice_transcript: Annotated[
        str | None, typer.Option(help="The words spoken in --voice; listened for if not given.")
    ] = None,
    transcript: Annotated[
        str | None, typer.Option(help="VC: the words of the recording to convert.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="VC: that recording, listened to if --transcript is absent.")
    ] = None,
    frame_rule: FrameRuleName = None,
    small_frames: SmallFrames = False,
    allow_damaged: AllowDamaged = False,
    init_audio: Annotated[Path | None, typer.Option(help="A recording to vary.")] = None,
    init_strength: Annotated[
        float | None, typer.Option(help="How much of it remains, 0 to 1.")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(help="Seconds; the video's or 10 if not given, segments above one window."),
    ] = None,
    negative_prompt: Negative = None,
    plan: PlanName = None,
    shift: Shift = None,
    cfg_scale: CfgScale = None,
    rescale: Rescale = 0.0,
    seed: Seed = None,
    raw: Raw = False,
    engine: EngineName = AUTO,
    threads: Threads = None,
    memory: Memory = "resident",
    gpu: GpuNumber = None,
    cuda_graph: CudaGraphName = "step",
    allow_uncertified: Uncertified = False,
    as_json: Json = False,
) -> None:
    """Make a sound.

    omni-rt generate T2A -b BUNDLE --prompt "Rain on a tin roof" -o rain.wav

    omni-rt generate TTS -b BUNDLE --prompt "Good morning." -o speech.wav

    omni-rt generate V2A -b BUNDLE --video in.mp4 -o out.mp4

    T2A and T2M take --prompt, V2A and V2M --video and, if you like, --prompt; all four --audio.
    TTS takes --prompt, and --voice. VC takes --voice, and --transcript or --source.
    A .mp4, .mkv, .mov or .webm is a copy of the video's picture with the new sound.
    """
    with (
        terminal.errors_reported(),
        _writable(output, raw, video, duration),
        open_session(
            bundle,
            engine=engine,
            threads=threads,
            memory=memory,
            gpu=gpu,
            cuda_graph=cuda_graph,
            uncertified=allow_uncertified,
        ) as session,
    ):
        with terminal.progress_bars() as bars:
            made = session.generate(
                task,
                prompt=prompt,
                video=video,
                audio=audio,
                frame_rule=frame_rule,  # type: ignore[arg-type]  # checked there
                small_frames=small_frames or None,
                allow_damaged=allow_damaged or None,
                voice=voice,
                voice_transcript=voice_transcript,
                transcript=transcript,
                source=source,
                negative_prompt=negative_prompt,
                init_audio=init_audio,
                init_strength=init_strength,
                duration_s=duration,
                plan=_shifted(session, plan, cfg_scale, shift),
                cfg_scale=cfg_scale,
                rescale=rescale,
                seed=seed,
                normalise=not raw,
                on_step=bars("sampling"),
            )
        _finish(made, output, as_json, video)


def edit(
    task: Annotated[
        str,
        typer.Argument(help='Add, Remove, Extract, "Style Transfer" or Speech.', metavar="TASK"),
    ],
    source: Annotated[Path, typer.Argument(help="The recording to edit.")],
    bundle: BundleOption,
    output: Output,
    desc: Annotated[str | None, typer.Option(help="The sound to add, remove or extract.")] = None,
    source_category: Annotated[str | None, typer.Option(help="Style Transfer: from …")] = None,
    target_category: Annotated[str | None, typer.Option(help="Style Transfer: … to.")] = None,
    transcript: Annotated[
        str | None, typer.Option(help="Speech: the words that are said; listened for if absent.")
    ] = None,
    new_transcript: Annotated[
        str | None, typer.Option(help="Speech: the words to be said instead.")
    ] = None,
    negative_prompt: Negative = None,
    plan: PlanName = None,
    shift: Shift = None,
    cfg_scale: CfgScale = None,
    rescale: Rescale = 0.0,
    seed: Seed = None,
    raw: Raw = False,
    engine: EngineName = AUTO,
    threads: Threads = None,
    memory: Memory = "resident",
    gpu: GpuNumber = None,
    cuda_graph: CudaGraphName = "step",
    allow_uncertified: Uncertified = False,
    as_json: Json = False,
) -> None:
    """Edit a recording.

    omni-rt edit Remove street.mp3 -b BUNDLE --desc "a dog barking" -o quiet.wav

    omni-rt edit Speech talk.wav -b BUNDLE --transcript "see you Monday"
    --new-transcript "see you Tuesday" -o talk2.wav
    """
    with (
        terminal.errors_reported(),
        _writable(output, raw),
        open_session(
            bundle,
            engine=engine,
            threads=threads,
            memory=memory,
            gpu=gpu,
            cuda_graph=cuda_graph,
            uncertified=allow_uncertified,
        ) as session,
    ):
        with terminal.progress_bars() as bars:
            audio = session.edit(
                task,
                source,
                desc=desc,
                source_category=source_category,
                target_category=target_category,
                transcript=transcript,
                new_transcript=new_transcript,
                negative_prompt=negative_prompt,
                plan=_shifted(session, plan, cfg_scale, shift),
                cfg_scale=cfg_scale,
                rescale=rescale,
                seed=seed,
                normalise=not raw,
                on_step=bars("sampling"),
            )
        _finish(audio, output, as_json)
