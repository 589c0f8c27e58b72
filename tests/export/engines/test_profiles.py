"""Profiles cover what the runtime asks of every stage, within the model's own sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rt.answering import SLICE_TOKENS
from omni_rt.contract import PORTS
from omni_rt.errors import RequestError
from omni_rt.export.engines.profiles import Buckets, profiles_of
from omni_rt.manifest import ThinkerDims
from omni_rt.preprocess.whisper_mel import MAX_S
from tests.runtime.tiny_bundle import DIMS

THINKER = ThinkerDims(
    layers=2, kv_heads=1, head_width=8, vocabulary=9, max_positions=512, mel_bands=128,
    chunk_frames=200, patch_px=14, temporal_patch=2, merge=2, window_px=112,
)  # fmt: skip
WHOLE = replace(DIMS, thinker=THINKER, context_tokens=600)


@pytest.mark.parametrize("stage", PORTS)
def test_every_dynamic_dimension_of_the_inputs_has_an_ordered_range(stage: str) -> None:
    needed = {n for p in PORTS[stage](WHOLE).inputs for n in p.shape if isinstance(n, str)}
    for profile in profiles_of(stage, WHOLE, Buckets(requests=3)):
        assert needed <= profile.keys()
        assert all(least <= usual <= most for least, usual, most in profile.values())


@pytest.mark.parametrize("requests", [1, 2, 4])
def test_guided_unguided_and_negative_batches_have_a_profile_each(requests: int) -> None:
    profiles = profiles_of("dit_step", WHOLE, Buckets(contexts=(64,), requests=requests))
    for batch in range(1, requests + 1):
        for rows, queries in ((2 * batch, batch), (batch, batch), (2 * batch, 2 * batch)):
            fits = [p for p in profiles if p["R"][0] == rows and p["Q"][0] <= queries <= p["Q"][2]]
            assert len(fits) == 1


def test_rows_are_exact_so_that_no_slice_can_be_cut_short() -> None:
    for profile in profiles_of("dit_step", WHOLE, Buckets(requests=4)):
        assert profile["R"][0] == profile["R"][2] >= profile["Q"][2]
        assert profile["P"][0] == profile["P"][2]


def test_no_context_is_longer_than_the_models() -> None:
    longest = WHOLE.context_tokens + WHOLE.transcript_tokens
    found = {p["P"][2] for p in profiles_of("dit_step", WHOLE, Buckets())}
    assert found == {320, 384, 512, longest}


OFFICIAL = replace(DIMS, thinker=replace(THINKER, max_positions=32_768))
SOUND, VIDEO, TEXT = MAX_S * 25, 3_800, 800  # tokens: the longest sound, ten seconds of video


def first(stage: str, **sizes: int) -> int:
    """The profile that the runtime takes."""
    for i, profile in enumerate(profiles_of(stage, OFFICIAL, Buckets())):
        if all(profile[n][0] <= size <= profile[n][2] for n, size in sizes.items()):
            return i
    raise AssertionError(f"{stage}: {sizes} fit no profile")


def test_all_that_a_session_takes_at_once_has_a_profile() -> None:
    """Five minutes of sound and a window of video condition; an answer may fill the context."""
    longest = SOUND + VIDEO + TEXT
    assert longest > SOUND > 4096
    first("thinker_embed", seq=longest)
    first("thinker_cond", seq=longest)
    first("thinker_embed", seq=32_768)
    for held in (0, SOUND, 32_767):
        first("thinker_lm", seq=1, past=held, total=held + 1)
    for held in (0, 8_192, 32_768 - SLICE_TOKENS):
        first("thinker_lm", seq=SLICE_TOKENS, past=held, total=held + SLICE_TOKENS)


def test_usual_prompts_do_not_take_the_memory_of_the_longest() -> None:
    assert first("thinker_cond", seq=VIDEO) < first("thinker_cond", seq=SOUND)
    usual, longest = (first("thinker_lm", seq=200, past=n, total=n + 200) for n in (0, 30_000))
    assert usual < longest


@pytest.mark.parametrize(
    "wrong", [{"contexts": ()}, {"contexts": (0, 5)}, {"requests": 0}, {"requests": -2}]
)
def test_buckets_of_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(RequestError, match="got"):
        Buckets(**wrong)
