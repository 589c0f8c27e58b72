"""Recordings and frames → features: the thinker's towers and Synchformer, cached by content."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omni_rt.audio import Audio
from omni_rt.bundle import Bundle
from omni_rt.contract import SYNC_SEGMENT_FRAMES, sync_starts
from omni_rt.engine_pool import EnginePool
from omni_rt.errors import RequestError
from omni_rt.feature_cache import FeatureCache, Floats, content_hash
from omni_rt.manifest import ThinkerDims
from omni_rt.options import raise_if_cancelled
from omni_rt.preprocess.patches import LEAST_PX, MOST_PX, fitted_size, patch_tables, patches
from omni_rt.preprocess.positions import VideoTokens
from omni_rt.preprocess.resize import bicubic, normalised
from omni_rt.preprocess.waveform import mono
from omni_rt.preprocess.whisper_mel import MAX_S, RATE_HZ, chunked, log_mel, token_count

Frames = NDArray[np.uint8]  # [n, height, width, 3]

# Work per run of a tower: bounds the memory, not the result.
CHUNKS_AT_ONCE, SEGMENTS_AT_ONCE = 8, 2
PATCHES_AT_ONCE = 2880  # five grids of 24 × 24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heard:
    """A recording as the thinker's tokens [n, H]; `key` tells its content."""

    embeds: Floats
    key: bytes

    @property
    def tokens(self) -> int:
        return len(self.embeds)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """A video as the thinker's tokens [n, H], and its own sound where that is interleaved."""

    embeds: Floats
    key: bytes
    grids: int
    rows: int  # of merged patches
    columns: int
    sound: Heard | None = field(default=None)

    @property
    def layout(self) -> VideoTokens:
        """How many tokens lie where."""
        sound = None if self.sound is None else self.sound.tokens
        return VideoTokens(grids=self.grids, rows=self.rows, columns=self.columns, sound=sound)


class Senses:
    """Runs the towers. Not thread-safe: the pipeline's lock is held around it."""

    def __init__(self, bundle: Bundle, pool: EnginePool) -> None:
        self._bundle, self._pool = bundle, pool
        self.cache = FeatureCache()

    @property
    def _thinker(self) -> ThinkerDims:
        return self._bundle.thinker_dims

    def heard(self, clip: Audio, cancel: threading.Event | None = None) -> Heard:
        """A recording's tokens. Raises RequestError if it is too long or too short for one."""
        if clip.duration_s > MAX_S:
            raise RequestError(
                f"the recording lasts {clip.duration_s:.0f} s; the model hears at most {MAX_S} s"
            )
        thinker = self._thinker
        samples = mono(clip, rate_hz=RATE_HZ)
        mel = log_mel(samples, bands=thinker.mel_bands)
        tokens = token_count(mel.shape[1])
        if tokens == 0:
            raise RequestError(
                f"the recording lasts {clip.duration_s:.3f} s: too short to be heard"
            )
        key = content_hash(samples)

        def compute() -> Floats:
            engine = self._pool.get("audio_tower")
            chunks, lengths = chunked(mel, frames=thinker.chunk_frames)
            rows = []
            for start in range(0, len(chunks), CHUNKS_AT_ONCE):
                raise_if_cancelled(cancel)
                part = slice(start, start + CHUNKS_AT_ONCE)
                out = engine.run(mel=chunks[part], lengths=lengths[part])["audio_embeds"]
                rows.append(out.reshape(-1, out.shape[-1]))
            return np.asarray(np.concatenate(rows)[:tokens], np.float32)

        return Heard(embeds=self.cache.get("audio_tower", key, compute), key=key)

    def seen(
        self,
        frames: Frames,
        *,
        as_they_are: bool = False,
        sound: Heard | None = None,
        cancel: threading.Event | None = None,
    ) -> Seen:
        """A video's tokens from its frames, resized as the original does or `as_they_are`."""
        thinker = self._thinker
        unit, height, width = thinker.patch_px * thinker.merge, *frames.shape[1:3]
        if as_they_are:
            height, width = max(height // unit, 1) * unit, max(width // unit, 1) * unit
        else:
            height, width = fitted_size(
                height, width, least_px=LEAST_PX, most_px=MOST_PX, unit=unit
            )
        rows, columns = height // thinker.patch_px, width // thinker.patch_px
        grids = -(-len(frames) // thinker.temporal_patch)
        key = content_hash(frames, np.array([height, width]))

        def compute() -> Floats:
            engine = self._pool.get("vision_tower")
            tables = patch_tables(rows, columns, thinker)
            at_once = max(PATCHES_AT_ONCE // (rows * columns), 1) * thinker.temporal_patch
            found = []
            for start in range(0, len(frames), at_once):
                raise_if_cancelled(cancel)
                part = [bicubic(frame, height, width) for frame in frames[start : start + at_once]]
                out = engine.run(
                    pixels=patches(np.stack(part), thinker),
                    pos_hw=tables.pos_hw,
                    window_id=tables.window_id,
                )["vision_embeds"]
                found.append(out.reshape(-1, out.shape[-1]))
            return np.asarray(np.concatenate(found), np.float32)

        return Seen(
            embeds=self.cache.get("vision_tower", key, compute),
            key=key,
            grids=grids,
            rows=rows // thinker.merge,
            columns=columns // thinker.merge,
            sound=sound,
        )

    def sync(self, frames: Frames, cancel: threading.Event | None = None) -> Floats:
        """Synchformer's features [8·segments, W] of frames [n, 224, 224, 3] at 25 per second.

        Segments of 16 frames start every 8 (spec SYNCHFORMER §3).
        """

        def compute() -> Floats:
            engine = self._pool.get("synchformer")
            starts = sync_starts(len(frames))
            rows = []
            for first in range(0, len(starts), SEGMENTS_AT_ONCE):
                raise_if_cancelled(cancel)
                segments = [
                    normalised(frames[start : start + SYNC_SEGMENT_FRAMES])
                    for start in starts[first : first + SEGMENTS_AT_ONCE]
                ]
                rows.append(engine.run(frames=np.stack(segments))["sync"])
            return np.asarray(np.concatenate(rows), np.float32)

        return self.cache.get("synchformer", content_hash(frames), compute)
