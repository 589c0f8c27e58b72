"""How commands talk: progress and tables on a terminal, JSON for programs, one line per error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table

from omni_rt import strict_json
from omni_rt.errors import OmniError

_err = Console(stderr=True, highlight=False)
_out = Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line on standard output."""
    _out.print(text, markup=False)


def stream(text: str) -> None:
    """A piece of a model's text on standard output, at once; on a terminal without controls."""
    if sys.stdout.isatty():
        text = "".join(
            c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
        )
    sys.stdout.write(text)
    sys.stdout.flush()


def note(text: str) -> None:
    """A line for the person, on standard error."""
    _err.print(text, markup=False, style="dim", soft_wrap=True)


def print_json(value: Any) -> None:
    """A value (dataclasses too) as one JSON document on standard output."""
    sys.stdout.write(json.dumps(strict_json.to_json(value), indent=1, default=str) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output; the first column is text, the others align right."""
    table = Table(title=escape(title), title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    _out.print(table)


MISSED, ERROR, INTERRUPTED = 1, 2, 130  # exit status; 2 is that of a wrong option too


def missed(message: str) -> NoReturn:
    """End a command that has measured and found too little: one line of error, exit status 1."""
    fail(message, code=MISSED)


def fail(message: str, *, code: int = ERROR) -> NoReturn:
    """End a command that could not do what was asked: one line of error."""
    _err.print(f"error: {message}", markup=False, style="bold red", soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def errors_reported() -> Iterator[None]:
    """Turn this project's errors into one line and exit status 2, Ctrl-C into 130."""
    try:
        yield
    except OmniError as error:
        fail(str(error))
    except (OSError, MemoryError) as error:
        fail(str(error) or "out of memory")
    except KeyboardInterrupt:
        fail("interrupted", code=INTERRUPTED)


@contextmanager
def progress_bars() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """A function that opens a named bar and returns its `update(done, total)`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as progress:

        def open_bar(name: str) -> Callable[[int, int], None]:
            bar = progress.add_task(name, total=1)
            return lambda done, total: progress.update(bar, completed=done, total=total)

        yield open_bar


class StageNotes:
    """Shows what is being done now, and notes how long the last thing took."""

    def __init__(self, status: Status, *, quiet: bool) -> None:
        self._status, self._quiet = status, quiet
        self._what, self._start = "", 0.0

    def __call__(self, what: str) -> None:
        """Something else is being done now."""
        self.finish()
        self._status.update(escape(what))
        self._what, self._start = what, time.perf_counter()

    def detail(self, text: str) -> None:
        """How far it is: shown on a terminal, until something else is."""
        self._status.update(escape(f"{self._what}: {text}"))

    def finish(self) -> None:
        """Nothing is being done any more."""
        if self._what and not self._quiet:
            note(f"{self._what}: {time.perf_counter() - self._start:.1f} s")
        self._what = ""


@contextmanager
def stage_notes(*, quiet: bool) -> Iterator[StageNotes]:
    """What is told of work, stage by stage, on standard error; only on a terminal if `quiet`."""
    with _err.status("starting") as status:
        notes = StageNotes(status, quiet=quiet)
        yield notes
        notes.finish()
