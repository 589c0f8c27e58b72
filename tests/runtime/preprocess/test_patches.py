"""Sizes, patches and tables of video frames against the original's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from omni_rt.errors import RequestError
from omni_rt.manifest import ThinkerDims
from omni_rt.preprocess.patches import (
    LEAST_PX,
    MOST_PX,
    fitted_size,
    patch_tables,
    patches,
    understanding_most_px,
)

THINKER = ThinkerDims(
    layers=36,
    kv_heads=2,
    head_width=128,
    vocabulary=151_936,
    max_positions=32_768,
    mel_bands=128,
    chunk_frames=200,
    patch_px=14,
    temporal_patch=2,
    merge=2,
    window_px=112,
)
SIZES = [(2, 2), (4, 6), (8, 8), (16, 24), (18, 26), (24, 24), (26, 46)]


def video(frames: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(frames)
    return rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("source", "fitted", "tokens"),
    [
        ((224, 224), (336, 336), 144),
        ((360, 640), (364, 644), 299),
        ((480, 854), (476, 840), 510),
        ((720, 1280), (560, 1008), 720),
        ((1080, 1920), (560, 1008), 720),
    ],
)
def test_sizes_of_the_specification(
    source: tuple[int, int], fitted: tuple[int, int], tokens: int
) -> None:
    """Spec THINKER §3.3."""
    found = fitted_size(*source, least_px=LEAST_PX, most_px=MOST_PX)
    assert found == fitted
    assert found[0] * found[1] // 28**2 == tokens


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 768))
def test_sizes_are_the_originals(height: int, width: int, frames: int) -> None:
    if max(height, width) > 200 * min(height, width):
        return
    most = understanding_most_px(frames)
    found = fitted_size(height, width, least_px=LEAST_PX, most_px=most)
    assert found == smart_resize(height, width, 28, LEAST_PX, most)  # type: ignore[arg-type]
    assert fitted_size(*found, least_px=LEAST_PX, most_px=MOST_PX) == found or min(found) == 28


@pytest.mark.parametrize("size", [(1, 201), (4020, 20), (0, 10), (10, 0)])
def test_slivers_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match="ratio"):
        fitted_size(*size, least_px=LEAST_PX, most_px=MOST_PX)


@pytest.mark.parametrize(
    ("frames", "most"),
    [(4, MOST_PX), (300, MOST_PX), (301, 180_633_600 / 301), (768, 235_200.0), (10**6, 105_369.6)],
)
def test_long_videos_share_their_pixels(frames: int, most: float) -> None:
    assert understanding_most_px(frames) == pytest.approx(most, rel=1e-12)


def test_one_frame_is_the_originals_image() -> None:
    """Which repeats it to fill the grid; 3e-7: roundings of values up to 2.6."""
    frame = video(1, 56, 84)
    processor = Qwen2VLImageProcessorPil(do_resize=False)
    expected = processor(list(frame), return_tensors="np")["pixel_values"]
    found = patches(frame, THINKER)
    assert found.shape == (1, 24, 1176)
    assert found.dtype == np.float32
    assert np.allclose(found[0], expected, rtol=0, atol=3e-7)


def test_patches_are_listed_as_the_tables_say() -> None:
    """One value at a time: grid, patch, then colour, frame, row, column."""
    frames = video(4, 56, 84)
    found = patches(frames, THINKER).reshape(2, 24, 3, 2, 14, 14)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    for patch, (row, column) in enumerate(patch_tables(4, 6, THINKER).pos_hw.tolist()):
        square = frames[:, row * 14 : (row + 1) * 14, column * 14 : (column + 1) * 14]
        for frame in range(4):
            expected = ((square[frame] / 255 - mean) / std).transpose(2, 0, 1)
            assert np.allclose(found[frame // 2, patch, :, frame % 2], expected, rtol=0, atol=3e-7)


def test_an_odd_frame_is_repeated() -> None:
    frames = video(3, 28, 28)
    whole = np.concatenate([frames, frames[-1:]])
    assert np.array_equal(patches(frames, THINKER), patches(whole, THINKER))


def test_slices_of_whole_grids_are_slices_of_the_patches() -> None:
    frames = video(7, 28, 56)
    parts = [patches(frames[at : at + 4], THINKER) for at in (0, 4)]
    assert np.array_equal(np.concatenate(parts), patches(frames, THINKER))


@pytest.mark.parametrize("shape", [(2, 42, 28, 3), (2, 28, 30, 3), (0, 28, 28, 3)])
def test_frames_that_do_not_divide_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 28"):
        patches(np.zeros(shape, np.uint8), THINKER)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_positions_and_windows_are_the_originals(rows: int, columns: int) -> None:
    """The original moves the patches of a window together: here they have the same id."""
    tables = patch_tables(rows, columns, THINKER)
    grid = torch.tensor([[1, rows, columns]])
    assert np.array_equal(tables.pos_hw, get_vision_position_ids(grid, 2).numpy())
    order, bounds = get_vision_window_index(grid, 2, 112, 14)
    moved = tables.window_id.reshape(-1, 4)[order.numpy()].reshape(-1)
    parts = np.split(moved, bounds.numpy()[1:-1])
    assert [np.unique(part).size for part in parts] == [1] * len(parts)
    assert len(np.unique(moved)) == len(parts)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_patches_share_a_window_if_they_share_a_square_of_eight(rows: int, columns: int) -> None:
    tables = patch_tables(rows, columns, THINKER)
    assert tables.pos_hw.dtype == tables.window_id.dtype == np.int64
    square = tables.pos_hw // 8
    same = (square[:, None] == square[None]).all(axis=-1)
    assert np.array_equal(tables.window_id[:, None] == tables.window_id[None], same)


def test_ragged_windows_are_smaller() -> None:
    sizes = np.bincount(patch_tables(18, 26, THINKER).window_id)
    assert sizes.tolist() == [64, 64, 64, 16] * 2 + [16, 16, 16, 4]


def test_tables_are_shared_and_read_only() -> None:
    tables = patch_tables(4, 4, THINKER)
    assert patch_tables(4, 4, THINKER) is tables
    assert not tables.pos_hw.flags.writeable
    assert not tables.window_id.flags.writeable


@pytest.mark.parametrize("size", [(3, 4), (4, 5)])
def test_tables_of_half_blocks_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 2"):
        patch_tables(*size, THINKER)
