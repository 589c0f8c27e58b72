"""Our captions: enough of them, and none that a model refuses."""

from __future__ import annotations

import pytest

from omni_rt.calibration import prompts
from omni_rt.calibration.mixing import KINDS
from omni_rt.preprocess.chat import check_text


@pytest.mark.parametrize("name", ["SOUNDS", "MUSIC", "ENGLISH", "CHINESE"])
def test_there_are_several_tens_of_captions_each_its_own(name: str) -> None:
    texts = getattr(prompts, name)
    assert len(set(texts)) == len(texts) >= 30
    for text in texts:
        check_text(text, what=name)


def test_every_kind_of_sound_has_names() -> None:
    assert tuple(prompts.PARTS) == tuple(prompts.CATEGORIES) == KINDS
