"""Cases for a model of the miniature's tasks: examples of the kinds that it is trained on.

They are drawn from streams of their own: none is trained on, none is scored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from omni_rt.calibration.case import UNDERSTAND, Told, stream_of
from omni_rt.calibration.draws import Draw
from omni_rt.export.miniature import data
from omni_rt.export.miniature.film import write_film
from omni_rt.export.miniature.requests import arguments_of


def example_cases(draw: Draw, *, per_task: int, left_out: Collection[str]) -> Iterator[Told]:
    """Examples of the miniature's kinds, and a question about nothing."""
    kinds: dict[str, list[str]] = {}
    for kind in data.KINDS:
        example = data.draw(kind, stream_of(draw.seed, kind))
        way = "audio" if example.frames is None else "video"
        asked = example.task == UNDERSTAND
        if (f"{UNDERSTAND}/{way}" if asked else example.task) not in left_out:
            kinds.setdefault(example.task, []).append(kind)
    for task, those in kinds.items():
        for i in range(max(per_task, len(those))):
            example = data.draw(those[i % len(those)], stream_of(draw.seed, task, i))
            film = draw.folder / f"{task}-{i}.mkv"
            if example.frames is not None:
                write_film(example.frames, film)
            yield f"{task}/{i}", arguments_of(example, film)
    if f"{UNDERSTAND}/text" not in left_out:
        example = data.draw(data.QUESTION_KINDS[0], stream_of(draw.seed, "text"))
        yield f"{UNDERSTAND}/text", {"question": example.question}
