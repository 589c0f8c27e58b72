"""Staged memory: what is alive at the same time, and that no bit depends on it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from omni_rt import Audio, Session, miniature
from omni_rt.bundle import Bundle
from omni_rt.engine_pool import PHASES, Memory
from omni_rt.engines import Array, BoundEngine, Engine
from omni_rt.engines.ort import load_engine
from omni_rt.manifest import TensorSpec

pytestmark = pytest.mark.slow

SMALL = {"thinker_embed", "synchformer", "transcript", "signal"}  # see engine_pool.PHASES
RATE = 8000


class Watched:
    """An engine whose life is watched."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self.engine.inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self.engine.outputs

    def run(self, **inputs: Array) -> dict[str, Array]:
        return self.engine.run(**inputs)

    def bind(self, buffers: Mapping[str, Array]) -> BoundEngine:
        return self.engine.bind(buffers)


class Watching:
    """Loads engines, and remembers which ones lived whenever one more was loaded."""

    def __init__(self) -> None:
        self.alive: weakref.WeakValueDictionary[str, Watched] = weakref.WeakValueDictionary()
        self.together: list[set[str]] = []

    def __call__(self, bundle: Bundle, stage: str, threads: int | None, /) -> Engine:
        gc.collect()
        before = set(self.alive)
        engine = Watched(load_engine(bundle, stage, threads))
        self.alive[stage] = engine
        self.together.append(before | {stage})
        return engine


def everything(memory: Memory, load: Watching, picture: Path) -> list[np.ndarray]:
    """Every stage once: hearing, seeing, answering, speech, a variation of a clip."""
    ramp = np.linspace(-0.5, 0.5, RATE, dtype=np.float32)[None]
    clip = Audio(np.sin(2 * np.pi * 300 * ramp).astype(np.float32), RATE)
    how = {"plan": "euler-2", "seed": 3}
    with Session(miniature(), memory=memory, engine=load, threads=1) as session:
        reply = session.understand("What is it?", audio=clip, video=picture, max_new_tokens=3)
        sounds = [
            session.generate("V2A", video=picture, **how),
            session.generate("TTS", prompt="ba", **how),
            session.generate("T2A", prompt="a tone", init_audio=clip, init_strength=0.5, **how),
        ]
    letters = np.frombuffer(reply.text.encode(), np.uint8)
    return [letters, *(sound.samples for sound in sounds)]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = pytest.importorskip("PIL.Image", reason="pictures need pillow")
    pytest.importorskip("av", reason="video needs PyAV")
    path = tmp_path_factory.mktemp("seen") / "picture.png"
    image.fromarray(np.arange(224 * 224 * 3, dtype=np.uint8).reshape(224, 224, 3)).save(path)
    return path


def test_at_most_one_large_stage_lives_at_once_and_the_bits_are_the_same(picture: Path) -> None:
    staged, resident = Watching(), Watching()
    found = everything("staged", staged, picture)
    assert set().union(*staged.together) == set(PHASES)  # every stage there is was loaded
    for lived in staged.together:
        assert len(lived - SMALL) <= 1, lived
    gc.collect()
    assert set(staged.alive) == set()  # nothing lives on after a session
    for one, other in zip(found, everything("resident", resident, picture), strict=True):
        assert np.array_equal(one, other)
    assert set(PHASES) in resident.together
