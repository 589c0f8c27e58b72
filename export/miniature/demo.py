"""Four things that the miniature does, each judged by what was asked: `omni-rt demo`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from omni_rt.audio import Audio
from omni_rt.export.miniature.data import RATE_HZ, Example, Stream, draw
from omni_rt.export.miniature.data.clip import pick
from omni_rt.export.miniature.requests import request_of
from omni_rt.export.miniature.scoring_run import Model
from omni_rt.export.miniature.spectrogram_png import spectrogram_png
from omni_rt.export.miniature.tasks import score
from omni_rt.options import OnStep, checked_seed
from omni_rt.plans import Plan
from omni_rt.whole_file import draft_of

# Files of the demo → the kinds of which one is made.
_KINDS: Mapping[str, tuple[str, ...]] = {
    "sound": ("note", "chirp"),
    "music": ("chord", "arpeggio"),
    "speech": ("speech",),
    "edited": ("remove",),
}
_SOURCE = "source"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One sound of the demo, and whether it is what was asked for, check by check."""

    file: Path
    task: str
    asked: str
    right: Mapping[str, bool]
    duration_s: float
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """All that was written. picture: spectrograms, in the order of `sounds` from above."""

    sounds: tuple[Path, ...]
    picture: Path
    made: tuple[Made, ...]


def run_demo(
    model: Model,
    folder: Path,
    *,
    plan: Plan,
    cfg_scale: float,
    seed: int,
    tell: Callable[[str], OnStep],
) -> Demo:
    """Make a sound, music, speech and an edit in `folder`, with the edit's source and a picture.

    Raises what the model does, and RequestError for what cannot be written.
    """
    sounds: dict[str, Audio] = {}
    made = []
    for name, example in demo_examples(seed).items():
        if example.source is not None:
            sounds[_SOURCE] = Audio(example.source[None], RATE_HZ)
            sounds[_SOURCE].save(folder / f"{_SOURCE}.wav")
        begun = time.perf_counter()
        (sounds[name],) = model.generate_batch(
            [request_of(example)],
            seeds=[seed],
            plan=plan,
            cfg_scale=cfg_scale,
            on_step=tell(name),
        )
        took_s = time.perf_counter() - begun
        made.append(_judged(example, sounds[name], folder / f"{name}.wav", took_s))
    picture = folder / "spectrograms.png"
    with draft_of(picture) as draft:
        draft.write_bytes(spectrogram_png([a.samples.mean(axis=0) for a in sounds.values()]))
    files = tuple(folder / f"{name}.wav" for name in sounds)
    return Demo(sounds=files, picture=picture, made=tuple(made))


def demo_examples(seed: int) -> dict[str, Example]:
    """What the demo asks for, by the file that it becomes."""
    stream = Stream(checked_seed(seed))
    return {name: draw(pick(stream, kinds), stream) for name, kinds in _KINDS.items()}


def _judged(example: Example, audio: Audio, file: Path, took_s: float) -> Made:
    found = score(example, audio.samples, audio.sample_rate_hz)
    return Made(
        file=audio.save(file),
        task=example.task,
        asked=example.prompt or example.desc or "",
        right={name: found.values[name] == 1 for name in found.chances},
        duration_s=audio.duration_s,
        took_s=took_s,
    )
