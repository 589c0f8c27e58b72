"""The demo: files, their picture, and an honest verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_rt import Audio, make_plan
from omni_rt.errors import RequestError
from omni_rt.export.miniature.data import Example, Wave
from omni_rt.export.miniature.demo import Demo, demo_examples, run_demo
from tests.export.miniature.fake_model import FakeModel, Maker, silence
from tests.export.miniature.results import target

image = pytest.importorskip("PIL.Image")


def demo_of(folder: Path, maker: Maker, *, seed: int = 7) -> Demo:
    model = FakeModel(list(demo_examples(seed).values()), maker=maker)
    return run_demo(
        model,
        folder,
        plan=make_plan("euler-2"),
        cfg_scale=1.0,
        seed=seed,
        tell=lambda name: lambda done, total: None,
    )


def test_it_writes_what_it_lists(tmp_path: Path) -> None:
    done = demo_of(tmp_path, target)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("sound.wav", "music.wav", "speech.wav", "source.wav", "edited.wav"),
        "spectrograms.png",
    }
    assert [path.stem for path in done.sounds] == ["sound", "music", "speech", "source", "edited"]
    for path in done.sounds:
        assert Audio.read(path).sample_rate_hz == 8000
    with image.open(done.picture) as picture:
        assert picture.size == (513, 5 * 256 + 4 * 3)


@pytest.mark.parametrize("seed", [1, 2, 7])
def test_a_right_model_is_told_so_and_a_wrong_one_too(seed: int, tmp_path: Path) -> None:
    right = demo_of(tmp_path, target, seed=seed)
    assert [made.task for made in right.made] == ["T2A", "T2M", "TTS", "Remove"]
    assert all(passed for made in right.made for passed in made.right.values())
    assert all(made.asked for made in right.made)
    wrong = demo_of(tmp_path, silence, seed=seed)
    assert not any(all(made.right.values()) for made in wrong.made)


def test_an_edit_that_gives_its_source_back_is_wrong(tmp_path: Path) -> None:
    def lazy(example: Example) -> Wave:
        return target(example) if example.source is None else example.source

    assert not demo_of(tmp_path, lazy).made[-1].right["residual"]


def test_every_seed_asks_for_other_things_and_always_the_same() -> None:
    asked = [[e.prompt or e.desc for e in demo_examples(seed).values()] for seed in (1, 2, 1)]
    assert asked[0] == asked[2] != asked[1]
    with pytest.raises(RequestError, match="seed must be"):
        demo_examples(-1)
