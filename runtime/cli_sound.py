"""The commands that make sound: `omni-rt generate` and `omni-rt edit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from omni_rt import terminal
from omni_rt.audio import Audio, check_target
from omni_rt.errors import RequestError
from omni_rt.plans import Plan, make_plan
from omni_rt.session import Session

BundleOption = Annotated[
    Path,
    typer.Option("--bundle", "-b", envvar="OMNI_RT_BUNDLE", help="The bundle's directory."),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Where to write: .wav, .flac, .ogg or .mp3.")
]
Threads = Annotated[int | None, typer.Option(help="Processor threads; all if not given.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Uncertified = Annotated[
    bool, typer.Option("--allow-uncertified", help="Run a bundle whose parity is not proved.")
]
PlanName = Annotated[
    str | None,
    typer.Option(
        "--plan",
        help="Solver and steps: euler-N, ab2-N, ab3-N, abm2-N, heun-N, dpmpp2m-N, consistency-N.",
    ),
]
Shift = Annotated[
    float | None,
    typer.Option(help="Warp the plan's times: above 1 spends more steps near the noise."),
]
CfgScale = Annotated[float, typer.Option(help="Guidance: 1 is none, 7 the original's default.")]
Rescale = Annotated[float, typer.Option(help="Guidance rescale φ, 0 to 1.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same sound.")]
Negative = Annotated[str | None, typer.Option(help="What should not be heard.")]
Raw = Annotated[bool, typer.Option("--raw", help="Do not normalise the peak.")]


def commands(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(generate)
    app.command()(edit)


def open_session(
    bundle: Path,
    *,
    threads: int | None = None,
    allow_uncertified: bool = False,
    memory: str = "resident",
) -> Session:
    """A session, its bundle verified behind a progress bar."""
    if allow_uncertified:
        terminal.note("warning: the bundle's parity certificate is not checked")
    with terminal.progress_bars() as bars:
        return Session(
            bundle,
            threads=threads,
            memory=memory,  # type: ignore[arg-type]  # checked there, with a better message
            allow_uncertified=allow_uncertified,
            progress=bars("verifying the bundle"),
        )


def _shifted(plan: Plan, shift: float | None) -> Plan:
    """The same analytic plan on warped times."""
    if shift is None:
        return plan
    if plan.method is None:
        raise RequestError(f"plan {plan.name!r} is fitted to its times: --shift cannot warp them")
    return make_plan(f"{plan.method}-{len(plan.grid) - 1}", shift=shift)


@contextmanager
def _writable(output: Path, raw: bool) -> Iterator[None]:
    """Refuse an output before the work is done for it."""
    check_target(output)
    if raw and output.suffix.lower() != ".wav":
        raise RequestError("--raw may exceed full scale: write a .wav")
    yield


def _finish(audio: Audio, output: Path, as_json: bool) -> None:
    audio.save(output)
    if as_json:
        terminal.print_json({"file": output, "duration_s": audio.duration_s, **audio.made})
    else:
        terminal.say(f"{output}: {audio.duration_s:.2f} s, seed {audio.made['seed']}")


def generate(
    task: Annotated[str, typer.Argument(help="T2A, T2M, TTS or VC.", metavar="TASK")],
    bundle: BundleOption,
    output: Output,
    prompt: Annotated[str | None, typer.Option(help="What to make, or for TTS the words.")] = None,
    voice: Annotated[
        Path | None, typer.Option(help="A recording whose voice is to speak (first 6 s are used).")
    ] = None,
    voice_transcript: Annotated[
        str | None, typer.Option(help="The words spoken in --voice.")
    ] = None,
    transcript: Annotated[
        str | None, typer.Option(help="VC: the words of the recording to convert.")
    ] = None,
    init_audio: Annotated[Path | None, typer.Option(help="A recording to vary.")] = None,
    init_strength: Annotated[
        float | None, typer.Option(help="How much of it remains, 0 to 1.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(help="Seconds; 10 if not given, segments above one window.")
    ] = None,
    negative_prompt: Negative = None,
    plan: PlanName = None,
    shift: Shift = None,
    cfg_scale: CfgScale = 7.0,
    rescale: Rescale = 0.0,
    seed: Seed = None,
    raw: Raw = False,
    threads: Threads = None,
    memory: Annotated[str, typer.Option(help="resident or staged.")] = "resident",
    allow_uncertified: Uncertified = False,
    as_json: Json = False,
) -> None:
    """Make a sound.

    omni-rt generate T2A -b BUNDLE --prompt "Rain on a tin roof" -o rain.wav

    omni-rt generate TTS -b BUNDLE --prompt "Good morning." -o speech.wav

    T2A and T2M take --prompt. TTS takes --prompt, and for a voice --voice with --voice-transcript.
    VC takes --transcript, --voice and --voice-transcript.
    """
    with (
        terminal.errors_reported(),
        _writable(output, raw),
        open_session(
            bundle, threads=threads, allow_uncertified=allow_uncertified, memory=memory
        ) as session,
    ):
        with terminal.progress_bars() as bars:
            audio = session.generate(
                task,
                prompt=prompt,
                voice=voice,
                voice_transcript=voice_transcript,
                transcript=transcript,
                negative_prompt=negative_prompt,
                init_audio=init_audio,
                init_strength=init_strength,
                duration_s=duration,
                plan=_shifted(session.plan(plan), shift),
                cfg_scale=cfg_scale,
                rescale=rescale,
                seed=seed,
                normalise=not raw,
                on_step=bars("sampling"),
            )
        _finish(audio, output, as_json)


def edit(
    task: Annotated[
        str, typer.Argument(help='Add, Remove, Extract or "Style Transfer".', metavar="TASK")
    ],
    source: Annotated[Path, typer.Argument(help="The recording to edit.")],
    bundle: BundleOption,
    output: Output,
    desc: Annotated[str | None, typer.Option(help="The sound to add, remove or extract.")] = None,
    source_category: Annotated[str | None, typer.Option(help="Style Transfer: from …")] = None,
    target_category: Annotated[str | None, typer.Option(help="Style Transfer: … to.")] = None,
    negative_prompt: Negative = None,
    plan: PlanName = None,
    shift: Shift = None,
    cfg_scale: CfgScale = 7.0,
    rescale: Rescale = 0.0,
    seed: Seed = None,
    raw: Raw = False,
    threads: Threads = None,
    memory: Annotated[str, typer.Option(help="resident or staged.")] = "resident",
    allow_uncertified: Uncertified = False,
    as_json: Json = False,
) -> None:
    """Edit a recording.

    omni-rt edit Remove street.mp3 -b BUNDLE --desc "a dog barking" -o quiet.wav
    """
    with (
        terminal.errors_reported(),
        _writable(output, raw),
        open_session(
            bundle, threads=threads, allow_uncertified=allow_uncertified, memory=memory
        ) as session,
    ):
        with terminal.progress_bars() as bars:
            audio = session.edit(
                task,
                source,
                desc=desc,
                source_category=source_category,
                target_category=target_category,
                negative_prompt=negative_prompt,
                plan=_shifted(session.plan(plan), shift),
                cfg_scale=cfg_scale,
                rescale=rescale,
                seed=seed,
                normalise=not raw,
                on_step=bars("sampling"),
            )
        _finish(audio, output, as_json)
