"""The commands that answer: `omni-rt understand`, `omni-rt chat` and `omni-rt transcribe`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from omni_rt import terminal
from omni_rt.bench import peak_rss_bytes
from omni_rt.cli_options import (
    AllowDamaged,
    BundleOption,
    EngineName,
    FrameRuleName,
    GpuNumber,
    Json,
    Memory,
    SmallFrames,
    Threads,
    Uncertified,
    open_session,
)
from omni_rt.engines.registry import AUTO
from omni_rt.errors import OmniError, RequestError
from omni_rt.session import Session
from omni_rt.understanding import Reply, Turn

AudioOption = Annotated[
    Path | None, typer.Option(help="A recording to listen to, at most 5 minutes.")
]
VideoOption = Annotated[Path | None, typer.Option(help="A video or a picture to look at.")]
NoSound = Annotated[bool, typer.Option("--no-sound", help="Do not listen to the video's sound.")]
MostTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)]
Temperature = Annotated[
    float, typer.Option(help="0 takes the likeliest token; higher is more varied.")
]
DrawSeed = Annotated[
    int | None, typer.Option("--seed", help="The same seed draws the same answer.")
]
TopK = Annotated[int, typer.Option(help="Draw among so many likeliest tokens; 0: all.")]
TopP = Annotated[float, typer.Option(help="Draw among the likeliest that hold this probability.")]


def commands(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(understand)
    app.command()(chat)
    app.command()(transcribe)


def understand(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    bundle: BundleOption,
    audio: AudioOption = None,
    video: VideoOption = None,
    no_sound: NoSound = False,
    max_new_tokens: MostTokens = 1024,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    seed: DrawSeed = None,
    frame_rule: FrameRuleName = None,
    small_frames: SmallFrames = False,
    allow_damaged: AllowDamaged = False,
    engine: EngineName = AUTO,
    threads: Threads = None,
    memory: Memory = "resident",
    gpu: GpuNumber = None,
    allow_uncertified: Uncertified = False,
    as_json: Json = False,
) -> None:
    """Ask about a recording, a video, or nothing but text. The answer is printed as it comes.

    omni-rt understand "What do you hear?" -b BUNDLE --audio street.mp3

    omni-rt understand "What happens, and when?" -b BUNDLE --video clip.mp4
    """
    with (
        terminal.errors_reported(),
        open_session(
            bundle,
            engine=engine,
            threads=threads,
            memory=memory,
            gpu=gpu,
            uncertified=allow_uncertified,
        ) as session,
    ):
        reply = session.understand(
            question,
            audio=audio,
            video=video,
            video_sound=not no_sound,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stream=None if as_json else terminal.stream,
            frame_rule=frame_rule or "time_correct",  # type: ignore[arg-type]  # checked there
            small_frames=small_frames,
            allow_damaged=allow_damaged,
        )
        if as_json:
            terminal.print_json(_facts(reply))
        else:
            terminal.say("")
            _note_cut(reply)


def chat(
    bundle: BundleOption,
    audio: AudioOption = None,
    video: VideoOption = None,
    no_sound: NoSound = False,
    max_new_tokens: MostTokens = 1024,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    seed: DrawSeed = None,
    frame_rule: FrameRuleName = None,
    small_frames: SmallFrames = False,
    allow_damaged: AllowDamaged = False,
    engine: EngineName = AUTO,
    threads: Threads = None,
    memory: Memory = "resident",
    gpu: GpuNumber = None,
    allow_uncertified: Uncertified = False,
) -> None:
    """Talk in several turns; what was said and shown is remembered.

    A line is a question. "/audio FILE" and "/video FILE" show something with the next question,
    "/new" begins anew, "/quit" or the end of input ends. --audio and --video belong to the first.
    """
    with (
        terminal.errors_reported(),
        open_session(
            bundle,
            engine=engine,
            threads=threads,
            memory=memory,
            gpu=gpu,
            uncertified=allow_uncertified,
        ) as session,
    ):
        options: dict[str, Any] = {
            "video_sound": not no_sound,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
            "stream": terminal.stream,
            "frame_rule": frame_rule or "time_correct",
            "small_frames": small_frames,
            "allow_damaged": allow_damaged,
        }
        _converse(session, {"audio": audio, "video": video}, options, _asked)


def _converse(
    session: Session,
    shown: dict[str, Any],
    options: dict[str, Any],
    ask: Callable[[], str | None],
) -> None:
    """Questions until there are none. An error is told, and the conversation goes on."""
    history: tuple[Turn, ...] = ()
    while (line := ask()) is not None:
        command, _, argument = line.partition(" ")
        try:
            if command == "/quit":
                return
            if command == "/new":
                history, shown = (), {}
            elif command in ("/audio", "/video"):
                shown[command[1:]] = _existing(argument.strip())
            elif command.startswith("/"):
                raise RequestError("commands are /audio FILE, /video FILE, /new and /quit")
            elif line:
                reply = session.understand(line, history=history, **shown, **options)
                history, shown = reply.history, {}
                terminal.say("")
                _note_cut(reply)
        except OmniError as error:
            terminal.note(f"error: {error}")
            shown = {}


def _existing(name: str) -> Path:
    if not Path(name).is_file():
        raise RequestError(f"no file at {name or 'nothing'}")
    return Path(name)


def _asked() -> str | None:
    """The next line, prompted for where a person watches; None at the end of input."""
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    line = sys.stdin.readline()
    return line.strip() if line else None


def transcribe(
    recording: Annotated[Path, typer.Argument(help="The recording.")],
    bundle: BundleOption,
    engine: EngineName = AUTO,
    threads: Threads = None,
    memory: Memory = "resident",
    gpu: GpuNumber = None,
    allow_uncertified: Uncertified = False,
    as_json: Json = False,
) -> None:
    """Write down the words spoken in a recording."""
    with (
        terminal.errors_reported(),
        open_session(
            bundle,
            engine=engine,
            threads=threads,
            memory=memory,
            gpu=gpu,
            uncertified=allow_uncertified,
        ) as session,
    ):
        words = session.transcribe(recording)
        if as_json:
            terminal.print_json({"transcript": words})
        else:
            terminal.stream(words + "\n")


def _facts(reply: Reply) -> dict[str, Any]:
    return {
        "answer": reply.text,
        "tokens": reply.tokens,
        "complete": reply.complete,
        "prompt_tokens": reply.prompt_tokens,
        "seed": reply.seed,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _note_cut(reply: Reply) -> None:
    if not reply.complete:
        terminal.note(f"cut after {reply.tokens} tokens: --max-new-tokens allows more")
