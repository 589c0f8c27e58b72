"""Media tokens in a prompt, and every token's position, against the original's."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniThinkerForConditionalGeneration,
)
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor

from omni_rt.errors import RequestError
from omni_rt.manifest import SpecialIds
from omni_rt.preprocess.positions import Placed, VideoTokens, placed
from omni_rt.preprocess.whisper_mel import token_count

SPECIAL = SpecialIds(
    audio=500,
    image=501,
    video=502,
    audio_bos=503,
    audio_eos=504,
    vision_bos=505,
    vision_eos=506,
    stop=(507,),
)
AUDIO_TAG = [SPECIAL.audio_bos, SPECIAL.audio, SPECIAL.audio_eos]
VIDEO_TAG = [SPECIAL.vision_bos, SPECIAL.video, SPECIAL.vision_eos]
BATCHES, PER_BATCH = 10, 40
JUST_BELOW_HALF = float(np.nextafter(0.5, 0))

Item = int | VideoTokens  # mel frames of a recording that stands alone, or a video


@pytest.fixture(scope="module")
def reference() -> Qwen2_5OmniThinkerForConditionalGeneration:
    """The original's class on the meta device: its positions need no weights."""
    config = Qwen2_5OmniThinkerConfig(
        text_config={"vocab_size": 512, "num_hidden_layers": 1},
        vision_config={"depth": 1},
        audio_config={"encoder_layers": 1},
        audio_token_index=SPECIAL.audio,
        image_token_index=SPECIAL.image,
        video_token_index=SPECIAL.video,
        audio_start_token_id=SPECIAL.audio_bos,
        audio_end_token_id=SPECIAL.audio_eos,
        vision_start_token_id=SPECIAL.vision_bos,
        vision_end_token_id=SPECIAL.vision_eos,
    )
    with torch.device("meta"):
        return Qwen2_5OmniThinkerForConditionalGeneration(config)


def original_expansion(video: VideoTokens, seconds_per_grid: float) -> list[int]:
    """Ids of a video with sound, from audio_bos to audio_eos, by the original's processor."""
    letters = {"b": SPECIAL.audio_bos, "v": SPECIAL.video, "a": SPECIAL.audio}
    letters |= {"e": SPECIAL.audio_eos}
    stand_in: Any = SimpleNamespace(
        audio_bos_token="b", audio_eos_token="e", video_token="v", audio_token="a"
    )
    stand_in.video_processor = SimpleNamespace(merge_size=2)
    stand_in.get_chunked_index = lambda *given: Qwen2_5OmniProcessor.get_chunked_index(
        stand_in, *given
    )
    text = Qwen2_5OmniProcessor.replace_video_with_audio_token(
        stand_in,
        {
            "video_grid_thw": np.array([[video.grids, 2 * video.rows, 2 * video.columns]]),
            "video_second_per_grid": [seconds_per_grid],
        },
        0,
        {"num_audio_tokens": [video.sound]},
        0,
        position_id_per_seconds=25,
        seconds_per_chunk=2,
    )
    return [letters[letter] for letter in text]


def prompt_and_expansion(
    items: Sequence[Item], texts: Sequence[int], seconds_per_grid: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ids with one placeholder per item, and as the original expands them; text in between."""
    short, long = [7] * texts[0], [7] * texts[0]
    for item, text in zip(items, texts[1:], strict=True):
        tag = AUDIO_TAG if isinstance(item, int) else VIDEO_TAG
        if isinstance(item, int):
            inside = [SPECIAL.audio] * token_count(item)
        elif item.sound is None:
            inside = [SPECIAL.video] * item.tokens
        else:
            inside = original_expansion(item, seconds_per_grid)
        short += [*tag, *[8] * text]
        long += [tag[0], *inside, tag[2], *[8] * text]
    return np.array(short), np.array(long)


def original_positions(
    reference: Qwen2_5OmniThinkerForConditionalGeneration,
    ids: np.ndarray,
    items: Sequence[Item],
    seconds_per_grid: float,
) -> tuple[np.ndarray, int]:
    videos = [item for item in items if not isinstance(item, int)]
    grids = [[v.grids, 2 * v.rows, 2 * v.columns] for v in videos]
    frames = [item if isinstance(item, int) else 4 * (item.sound or 0) for item in items]
    positions, delta = reference.get_rope_index(
        torch.from_numpy(ids)[None],
        None,
        torch.tensor(grids) if grids else None,
        torch.ones(1, len(ids), dtype=torch.int64),
        any(video.sound is not None for video in videos),
        torch.tensor([count for count in frames if count]),
        torch.tensor([seconds_per_grid] * len(videos)),
    )
    return positions[:, 0].numpy(), int(delta)


def ours(
    ids: np.ndarray, items: Sequence[Item], seconds_per_grid: float, **options: bool
) -> Placed:
    return placed(
        ids,
        special=SPECIAL,
        audios=[token_count(item) for item in items if isinstance(item, int)],
        videos=[item for item in items if not isinstance(item, int)],
        seconds_per_grid=seconds_per_grid,
        **options,
    )


def random_items(rng: np.random.Generator, *, with_sound: bool) -> list[Item]:
    items: list[Item] = []
    for _ in range(rng.integers(1, 5)):
        if rng.random() < 0.4:
            items.append(int(rng.integers(3, 700)))
            continue
        grids, rows, columns = (int(value) for value in rng.integers(1, [9, 5, 5]))
        sound = int(rng.integers(1, 300)) if with_sound else None
        items.append(VideoTokens(grids=grids, rows=rows, columns=columns, sound=sound))
    return items


@pytest.mark.parametrize("batch", range(BATCHES))
def test_random_conversations_are_as_the_originals(
    batch: int, reference: Qwen2_5OmniThinkerForConditionalGeneration
) -> None:
    """Ids, positions and delta of `PER_BATCH` prompts; the original has sound in all or in none."""
    rng = np.random.default_rng(batch)
    for turn in range(PER_BATCH):
        items = random_items(rng, with_sound=turn % 2 == 1)
        texts = rng.integers(0, 9, len(items) + 1).tolist()
        rate = float(rng.choice([0.3, JUST_BELOW_HALF, 1.0, 2.0, 5.0, rng.uniform(0.3, 5)]))
        ids, expanded = prompt_and_expansion(items, texts, rate)
        found = ours(ids, items, rate)
        positions, delta = original_positions(reference, expanded, items, rate)
        assert np.array_equal(found.ids, expanded), (items, texts, rate)
        assert np.array_equal(found.positions, positions), (items, texts, rate)
        assert found.delta == delta, (items, texts, rate)
        assert found.ids.dtype == found.positions.dtype == np.int64


def test_plain_text_counts_up() -> None:
    found = ours(np.array([1, 2, 3]), [], 1.0)
    assert found.ids.tolist() == [1, 2, 3]
    assert found.positions.tolist() == [[0, 1, 2]] * 3
    assert found.delta == 0
    empty = ours(np.array([], np.int64), [], 1.0)
    assert empty.positions.shape == (3, 0)
    assert empty.delta == 0


def test_a_long_video_advances_by_its_duration_alone() -> None:
    """Spec THINKER §3.4 (c): 25 grids of 144 tokens, 25 positions apart."""
    video = VideoTokens(grids=25, rows=12, columns=12, sound=None)
    found = ours(np.array([*VIDEO_TAG, 9]), [video], 1.0)
    assert video.tokens == 3600
    assert found.positions[:, 0].tolist() == [0, 0, 0]
    assert found.positions[0, 1:3601].tolist() == [1 + 25 * (k // 144) for k in range(3600)]
    assert found.positions[:, -2:].tolist() == [[602, 603]] * 3
    assert found.delta == 604 - 3603


def test_text_after_a_video_with_sound_may_overlap_it() -> None:
    """Spec THINKER §3.4 (a): it goes on after the last piece, here of sound, alone."""
    video = VideoTokens(grids=2, rows=1, columns=60, sound=51)
    found = ours(np.array([*VIDEO_TAG, 9]), [video], 1.0)
    assert found.positions[:, :2].tolist() == [[0, 0]] * 3  # both bos
    assert found.positions[:, -3:].tolist() == [[52, 52, 53]] * 3  # both eos, then text
    assert found.positions.max() == 60
    assert found.delta == 61 - len(found.ids)


def test_ids_are_cut_by_exact_times_and_positions_by_rounded_ones() -> None:
    """Spec THINKER §3.4 (b): grid 4 is a hair before two seconds, and at two seconds in fp32."""
    video = VideoTokens(grids=6, rows=1, columns=1, sound=60)
    found = ours(np.array(VIDEO_TAG), [video], JUST_BELOW_HALF)
    assert found.ids[2:-2].tolist() == [502] * 5 + [500] * 50 + [502] + [500] * 10
    times = [0, 12, 25, 37, *range(50), 50, 62, *range(50, 60)]
    assert found.positions[0, 2:-2].tolist() == [1 + time for time in times]


def test_one_prompt_may_have_videos_with_and_without_sound() -> None:
    plain = VideoTokens(grids=1, rows=2, columns=2, sound=None)
    sounding = VideoTokens(grids=1, rows=1, columns=1, sound=2)
    found = ours(np.array([*VIDEO_TAG, *AUDIO_TAG, *VIDEO_TAG]), [plain, 12, sounding], 1.0)
    block = [505, 503, 502, 500, 500, 504, 506]
    assert found.ids.tolist() == [505, *[502] * 4, 506, 503, *[500] * 3, 504, *block]
    assert found.positions[0, -7:].tolist() == [9, 9, 10, 10, 11, 12, 12]


@pytest.mark.parametrize("ids", [[*AUDIO_TAG, *AUDIO_TAG], [1]])
def test_other_numbers_of_recordings_are_refused(ids: list[int]) -> None:
    with pytest.raises(RequestError, match="placeholders for 1 recordings"):
        ours(np.array(ids), [12], 1.0)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_recording_without_tokens_is_refused(frames: int) -> None:
    with pytest.raises(RequestError, match="30 ms"):
        ours(np.array(AUDIO_TAG), [frames], 1.0)


def test_a_video_without_tokens_is_refused() -> None:
    for sound, grids, message in ((0, 1, "30 ms"), (None, 0, "no frames")):
        video = VideoTokens(grids=grids, rows=1, columns=1, sound=sound)
        with pytest.raises(RequestError, match=message):
            ours(np.array(VIDEO_TAG), [video], 1.0)


@pytest.mark.parametrize(
    "ids", [[502], [505, 502], [502, 506], [505, 502, 9], [9, 502, 506], [505, 9, 502, 506]]
)
def test_a_video_with_sound_must_be_wrapped(ids: list[int]) -> None:
    video = VideoTokens(grids=1, rows=1, columns=1, sound=1)
    with pytest.raises(RequestError, match="vision_bos and vision_eos"):
        ours(np.array(ids), [video], 1.0)


VIDEOS = st.builds(
    VideoTokens,
    grids=st.integers(1, 12),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    sound=st.none() | st.integers(1, 400),
)


@given(
    st.lists(st.integers(3, 2000) | VIDEOS, max_size=5), st.integers(0, 4), st.floats(0.05, 50.0)
)
def test_every_item_gets_its_tokens(items: list[Item], text: int, rate: float) -> None:
    ids, expanded = prompt_and_expansion(items, [text] * (len(items) + 1), rate)
    found = ours(ids, items, rate)
    assert np.array_equal(found.ids, expanded)
    videos = [item for item in items if not isinstance(item, int)]
    sounds = [token_count(item) for item in items if isinstance(item, int)]
    sounds += [video.sound or 0 for video in videos]
    assert (found.ids == SPECIAL.video).sum() == sum(video.tokens for video in videos)
    assert (found.ids == SPECIAL.audio).sum() == sum(sounds)
    assert found.positions.shape == (3, len(found.ids))
    assert found.positions.min(initial=0) == 0
    assert found.delta == found.positions.max(initial=-1) + 1 - len(found.ids)
