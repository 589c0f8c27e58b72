from __future__ import annotations

import re

import pytest

from omni_rt.export.miniature.data import (
    KINDS,
    QUESTION_KINDS,
    TRANSCRIPT_CHARACTERS,
    draw_any,
    vocabulary,
)
from omni_rt.export.miniature.data.captions import LANGUAGES
from omni_rt.export.miniature.data.language import words_in
from omni_rt.export.miniature.data.mixtures import PAIRS
from omni_rt.export.miniature.data.questions import SOUND_KINDS
from tests.export.miniature.results import examples, stream

_TEXTS = ("prompt", "desc", "source_category", "target_category", "question", "answer")
_SPOKEN = ("transcript", "voice_transcript")


def test_every_language_words_every_kind() -> None:
    parts = {kind for pair in PAIRS for kind in pair}
    for language in LANGUAGES:
        assert language.captions.keys() == set(SOUND_KINDS)
        assert language.parts.keys() == language.new_parts.keys() == parts
        assert language.questions.keys() == set(QUESTION_KINDS)
        assert all(len(wordings) >= 2 for wordings in language.captions.values())


def test_what_is_to_be_added_is_fully_described() -> None:
    fields = {"note": 3, "chirp": 1, "clicks": 1, "noise": 1, "chord": 2}
    for language in LANGUAGES:
        for kind, wordings in language.new_parts.items():
            for wording in wordings:
                assert len(re.findall(r"\{\w+\}", wording)) == fields[kind], wording


def test_answers_of_a_question_differ() -> None:
    for language in LANGUAGES:
        for terms in (language.shapes, language.noises, language.qualities, language.colours):
            assert len(set(terms.values())) == len(terms)
        assert len(set(language.notes)) == 12


@pytest.mark.parametrize("kind", KINDS)
def test_all_words_are_in_the_vocabulary(kind: str) -> None:
    known = set(vocabulary())
    for example in examples(kind, 60):
        for name in _TEXTS:
            text = getattr(example, name) or ""
            assert set(words_in(text)) <= known, text
            assert "<" not in text
            assert "{" not in text
        for name in _SPOKEN:
            assert set(getattr(example, name) or "") <= set(TRANSCRIPT_CHARACTERS)


def test_the_vocabulary_is_sorted_small_and_without_special_tokens() -> None:
    words = vocabulary()
    assert list(words) == sorted(set(words))
    assert 100 < len(words) < 400
    assert not any("<" in word or "|" in word or "{" in word for word in words)


def test_a_quarter_of_the_captions_is_in_the_second_language() -> None:
    drawn = stream(3)
    prompts = [draw_any(drawn, {"chord": 1.0}).prompt or "" for _ in range(300)]
    share = sum("acorde" in prompt for prompt in prompts) / len(prompts)
    assert 0.15 < share < 0.35  # 0.25 ± 4 standard deviations
    assert len(set(prompts)) > 100
