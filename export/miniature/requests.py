"""Examples → the runtime's requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omni_rt.audio import Audio
from omni_rt.export.miniature.data import RATE_HZ, Example
from omni_rt.tasks import EDITING, GENERATION, Request, make_request

_CLIPS = ("source", "voice", "audio")
_NO_FILM = Path("film.mkv")


def request_of(example: Example, film: Path = _NO_FILM) -> Request:
    """The request for a sound; whoever runs it writes the example's frames to `film`."""
    return make_request(example.task, arguments_of(example, film), among=GENERATION + EDITING)


def arguments_of(example: Example, film: Path = _NO_FILM) -> dict[str, Any]:
    """An example's arguments as the runtime takes them: clips as Audio, frames as a file."""
    given = example.arguments()
    for name in _CLIPS:
        if name in given:
            given[name] = Audio(given[name][None], RATE_HZ)
    if given.pop("frames", None) is not None:
        given["video"] = film
    return given
