"""Placeholders → one id per media token, and the tokens' positions (spec THINKER §3.1, §3.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_rt.errors import RequestError
from omni_rt.manifest import SpecialIds

_PER_S = 25  # time positions, and audio tokens, per second
_PIECE = 2 * _PER_S  # a video and its sound alternate every two seconds

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoTokens:
    """One video in tokens: `rows` × `columns` are merged patches."""

    grids: int
    rows: int
    columns: int
    sound: int | None  # tokens of its own track, interleaved with it; None: a plain video

    @property
    def tokens(self) -> int:
        return self.grids * self.rows * self.columns


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """A prompt with its media tokens in place."""

    ids: Ids  # [n]: rows of audio are where it is special.audio, of videos where special.video
    positions: Ids  # [3, n]: time, height, width
    delta: int  # the position of the k-th token to come is n + delta + k


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """What stands for one placeholder, and for `beside` tokens on either side of it."""

    ids: Ids  # [n]
    positions: Ids  # [3, n], counted from 0
    advance: int  # where the text after it goes on; may lie below the block's own maximum
    beside: int


def placed(
    ids: Ids,
    *,
    special: SpecialIds,
    audios: Sequence[int],
    videos: Sequence[VideoTokens],
    seconds_per_grid: float = 1.0,
) -> Placed:
    """The prompt `ids` [m], one placeholder per item, expanded; and every token's position.

    `audios` are token counts of the recordings that stand alone, `videos` the videos, both in the
    order of their placeholders. A video with sound must stand between vision_bos and vision_eos.
    Raises RequestError if placeholders and items differ in number, or a sound has no token.
    """
    at = np.flatnonzero((ids == special.audio) | (ids == special.video))
    _check_items(ids[at], special=special, audios=audios, videos=videos)
    blocks = _blocks(ids, at.tolist(), special, iter(audios), iter(videos), seconds_per_grid)
    return _joined(ids, at.tolist(), blocks)


def _check_items(
    found: Ids, *, special: SpecialIds, audios: Sequence[int], videos: Sequence[VideoTokens]
) -> None:
    for what, token, items in (
        ("recordings", special.audio, len(audios)),
        ("videos", special.video, len(videos)),
    ):
        places = int((found == token).sum())
        if places != items:
            raise RequestError(f"the prompt has {places} placeholders for {items} {what}")
    if any(sound is not None and sound < 1 for sound in (*audios, *(v.sound for v in videos))):
        raise RequestError("a recording or a video's sound is too short: it lasts less than 30 ms")
    if any(video.tokens < 1 for video in videos):
        raise RequestError("a video has no frames")


def _blocks(
    ids: Ids,
    at: Sequence[int],
    special: SpecialIds,
    audios: Iterator[int],
    videos: Iterator[VideoTokens],
    seconds_per_grid: float,
) -> Iterator[_Block]:
    for index in at:
        if ids[index] == special.audio:
            tokens = next(audios)
            yield _run(special.audio, _alike(tokens))
            continue
        video = next(videos)
        if video.sound is None:
            yield _run(special.video, _raster(video, seconds_per_grid))
            continue
        if ids[max(index - 1, 0) : index + 2].tolist() != [
            special.vision_bos,
            special.video,
            special.vision_eos,
        ]:
            raise RequestError("a video with sound must stand between vision_bos and vision_eos")
        yield _with_sound(video, video.sound, special, seconds_per_grid)


def _joined(ids: Ids, at: Sequence[int], blocks: Iterator[_Block]) -> Placed:
    """Text and blocks in turn, each going on where the one before says."""
    all_ids: list[Ids] = []
    all_positions: list[Ids] = []
    start, position = 0, 0
    for index, block in zip(at, blocks, strict=True):
        text = ids[start : index - block.beside]
        all_ids += [text, block.ids]
        all_positions += [position + _alike(len(text)), position + len(text) + block.positions]
        start, position = index + 1 + block.beside, position + len(text) + block.advance
    all_ids.append(ids[start:])
    all_positions.append(position + _alike(len(ids) - start))
    positions = np.concatenate(all_positions, axis=1)
    return Placed(
        ids=np.concatenate(all_ids),
        positions=positions,
        delta=int(positions.max(initial=-1)) + 1 - positions.shape[1],
    )


def _alike(length: int) -> Ids:
    """[3, length], read-only: 0, 1, 2 … on all three axes."""
    return np.broadcast_to(np.arange(length, dtype=np.int64), (3, length))


def _raster(video: VideoTokens, seconds_per_grid: float) -> Ids:
    """[3, tokens]: time (rounded down, in fp32 as in the original), row and column."""
    where = np.indices((video.grids, video.rows, video.columns), dtype=np.int64).reshape(3, -1)
    seconds = where[0].astype(np.float32) * np.float32(seconds_per_grid)
    where[0] = (seconds * np.float32(_PER_S)).astype(np.int64)
    return where


def _run(token: int, positions: Ids) -> _Block:
    """The token as often as there are positions; text goes on after their maximum."""
    return _Block(
        ids=np.full(positions.shape[1], token, np.int64),
        positions=positions,
        advance=int(positions.max()) + 1,
        beside=0,
    )


def _with_sound(
    video: VideoTokens, sound: int, special: SpecialIds, seconds_per_grid: float
) -> _Block:
    """vision_bos audio_bos V0 A0 V1 A1 … audio_eos vision_eos; both bos, both eos in one place.

    The original cuts ids by unrounded times and positions by rounded ones, and goes on after
    the maximum of the last piece alone: kept, since the model was trained so.
    """
    grid = np.arange(video.tokens, dtype=np.int64) // (video.rows * video.columns)
    exact_time = grid.astype(np.float64) * seconds_per_grid * _PER_S
    raster, heard = _raster(video, seconds_per_grid), _alike(sound)
    turn = np.concatenate([2 * _pieces(exact_time), 2 * _pieces(heard[0]) + 1])
    ids = np.repeat([special.video, special.audio], [video.tokens, sound])
    inner = ids[np.argsort(turn, kind="stable")]

    turn = np.concatenate([2 * _pieces(raster[0]), 2 * _pieces(heard[0]) + 1])
    both = 1 + np.concatenate([raster, heard], axis=1)  # 1: the two bos come before
    end = 1 + int(both[:, turn == turn.max()].max())
    positions = both[:, np.argsort(turn, kind="stable")]
    bos = [special.vision_bos, special.audio_bos]
    eos = [special.audio_eos, special.vision_eos]
    return _Block(
        ids=np.concatenate([bos, inner, eos]),
        positions=np.pad(positions, ((0, 0), (2, 2)), constant_values=((0, 0), (0, end))),
        advance=end + 1,
        beside=1,
    )


def _pieces(times: NDArray[np.int64] | NDArray[np.float64]) -> Ids:
    """[n]: the number of the two-second piece that each of the rising `times` [n] falls into.

    As the original scans: the k-th cut is before the first token after the cut before it whose
    time is k · 50 or more; so pieces have a token at least, and jumps make pieces of one.
    """
    number = np.arange(1, min(int(times[-1] // _PIECE) + 1, len(times)))
    due = np.searchsorted(times, number * _PIECE)
    cuts = number + np.maximum.accumulate(due - number)
    is_cut = np.zeros(len(times), np.int64)
    is_cut[cuts[cuts < len(times)]] = 1
    return np.cumsum(is_cut)
