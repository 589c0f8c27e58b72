"""Seeded inputs and reference outputs of the thinker, its towers, and Synchformer.

The reference computes each chunk at its own length, each window by itself, and no cache; so each
comparison proves the masks and the cache as well as the graph.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from omni_rt.export.contract import thinker_dims_of
from omni_rt.export.parity import Arrays, numpy_arrays
from omni_rt.export.reference.synchformer import Synchformer
from omni_rt.export.reference.thinker import Cache, Thinker, kept_layers
from omni_rt.export.reference.thinker_config import ThinkerSizes
from omni_rt.export.reference.thinker_towers import AudioTower, VisionTower
from omni_rt.preprocess.patches import patch_tables
from omni_rt.verify import ENLARGED, enlarged

_SEED = 20_260
_TOKENS, _NEW_TOKENS = 29, 7
_GRIDS, _ROWS, _COLUMNS = 2, 6, 10  # windows are cut off on both sides


def _stream() -> np.random.RandomState:
    return np.random.RandomState(_SEED)


def _normal(stream: np.random.RandomState, *shape: int) -> Tensor:
    return torch.from_numpy(stream.standard_normal(shape).astype(np.float32))


def _positions(length: int) -> Tensor:
    """Time, height and width that differ, as within a video."""
    index = torch.arange(length)
    return torch.stack([index, index // 3, index % 5])[:, None]


@torch.inference_mode()
def thinker_parity(
    thinker: Thinker, layer_index: int, *, speaks: bool
) -> Iterator[tuple[str, Arrays]]:
    """The embedding, the states that condition, and, if it speaks, one more slice of a prompt."""
    ids = torch.from_numpy(_stream().randint(0, thinker.sizes.vocabulary, (1, _TOKENS)))
    embeds, positions = thinker.embed(ids), _positions(_TOKENS)
    mask = torch.ones(1, _TOKENS, dtype=torch.int64)
    yield "thinker_embed", numpy_arrays({"input_ids": ids, "inputs_embeds": embeds})
    kept = kept_layers(thinker.sizes, layer_index)
    hidden, _ = thinker.model.with_cache(embeds, positions, mask, None, layers=kept)
    given = {"inputs_embeds": embeds, "position_ids": positions, "attention_mask": mask}
    yield "thinker_cond", numpy_arrays({**given, "hidden": hidden})
    if speaks:
        states, cache = thinker.model.with_cache(embeds, positions, mask, None)
        past = _TOKENS - _NEW_TOKENS
        arrays = {
            "inputs_embeds": embeds[:, past:],
            "position_ids": positions[:, :, past:],
            "attention_mask": mask,
            **_named("past", [(k[:, :, :past], v[:, :, :past]) for k, v in cache]),
            "logits": thinker.logits(states[:, -1:]),
            **_named("present", cache),
        }
        yield "thinker_lm", numpy_arrays(arrays)


def _named(when: str, caches: list[Cache]) -> dict[str, Tensor]:
    return {
        f"{when}_{name}_{layer:02d}": part
        for layer, cache in enumerate(caches)
        for name, part in zip("kv", cache, strict=True)
    }


@torch.inference_mode()
def audio_tower_parity(tower: AudioTower) -> Arrays:
    """Two whole chunks and one that ends early."""
    sizes, frames = tower.sizes, tower.sizes.chunk_frames
    lengths = [frames, frames, frames * 3 // 5]
    mel = _normal(_stream(), 1, sizes.mel_bands, sum(lengths))[0]
    chunks = torch.zeros(len(lengths), sizes.mel_bands, frames)
    for chunk, part in zip(chunks, mel.split(frames, dim=1), strict=True):
        chunk[:, : part.shape[1]] = part
    tokens = tower(mel)
    rows = torch.zeros(len(lengths) * frames // 4, tokens.shape[1])
    rows[: len(tokens)] = tokens
    arrays = {
        "mel": chunks,
        "lengths": torch.tensor(lengths),
        "audio_embeds": rows.unflatten(0, (len(lengths), -1)),
    }
    return numpy_arrays(arrays)


@torch.inference_mode()
def vision_tower_parity(tower: VisionTower, sizes: ThinkerSizes) -> Arrays:
    """Two grids whose windows are cut off at the right and the bottom."""
    tables = patch_tables(_ROWS, _COLUMNS, thinker_dims_of(sizes))
    pixels = _normal(_stream(), _GRIDS, _ROWS * _COLUMNS, tower.sizes.patch_values)
    pos_hw, window_id = torch.tensor(tables.pos_hw), torch.tensor(tables.window_id)
    arrays = {
        "pixels": pixels,
        "pos_hw": pos_hw,
        "window_id": window_id,
        "vision_embeds": tower(pixels, pos_hw, window_id),
    }
    return numpy_arrays(arrays)


@torch.inference_mode()
def synchformer_parity(synchformer: Synchformer, *, frames: int, px: int) -> Arrays:
    """One segment of coarse noise: stored small, enlarged when it is used."""
    small = _stream().randint(0, 256, (1, frames, 3, px // 8, px // 8)).astype(np.uint8)
    sync = synchformer(torch.from_numpy(enlarged(small)))
    return {"frames" + ENLARGED: small, **numpy_arrays({"sync": sync})}
