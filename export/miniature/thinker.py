"""The miniature's thinker as one trainable module, and examples as its padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_rt.audio import Audio
from omni_rt.export import thinker_stages
from omni_rt.export.contract import thinker_dims_of
from omni_rt.export.miniature.data import RATE_HZ, Example
from omni_rt.export.miniature.data.clip import Frames
from omni_rt.export.miniature.requests import request_of
from omni_rt.export.miniature.text import TEMPLATES, Words
from omni_rt.export.reference.thinker import Thinker
from omni_rt.export.reference.thinker_config import ThinkerSizes
from omni_rt.manifest import SpecialIds
from omni_rt.preprocess.chat import AUDIO_TAG, VIDEO_TAG, conversation
from omni_rt.preprocess.frames import spread_indices
from omni_rt.preprocess.patches import patch_tables, patches
from omni_rt.preprocess.positions import VideoTokens, placed
from omni_rt.preprocess.resize import bicubic, squashed
from omni_rt.preprocess.waveform import mono
from omni_rt.preprocess.whisper_mel import RATE_HZ as HEARD_HZ
from omni_rt.preprocess.whisper_mel import chunked, log_mel, token_count

_SEEN_FRAMES, _SEEN_PX = 4, 336  # of a 2 s video, as `understand` looks at it
_SLOW_EVERY, _SLOW_PX = 5, 224  # of 25 frames a second, as a video's sound is made from them
_IGNORED = -100


class TrainableThinker(Thinker):
    """The text model with its head and towers; parameters have the checkpoint's names."""

    def __init__(self, sizes: ThinkerSizes) -> None:
        super().__init__(sizes, kept=sizes.layers, speaks=True)
        self.audio_tower = thinker_stages.AudioTower(sizes.audio)
        self.visual = thinker_stages.VisionTower(sizes.vision)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=min(0.05, parameter[0].numel() ** -0.5))
            elif not name.endswith("weight"):  # norms keep their ones
                nn.init.zeros_(parameter)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Prompts with their answers, padded on the right; `wanted` is −100 where nothing is asked."""

    ids: Tensor  # [B, S]
    positions: Tensor  # [3, B, S]
    mask: Tensor  # [B, S]
    wanted: Tensor  # [B, S]: the token to come after each
    mel: Tensor | None  # [clips · chunks, bands, frames]
    lengths: Tensor | None
    pixels: Tensor | None  # [videos · grids, patches, values]

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            mask=self.mask.to(device),
            wanted=self.wanted.to(device),
            mel=None if self.mel is None else self.mel.to(device),
            lengths=None if self.lengths is None else self.lengths.to(device),
            pixels=None if self.pixels is None else self.pixels.to(device),
        )


def prompt_text(example: Example) -> tuple[str, str]:
    """System and user turn of an example, as the runtime words them."""
    if example.question is not None:
        seen, heard = example.frames is not None, example.audio is not None
        tags = VIDEO_TAG * seen + AUDIO_TAG * heard
        return TEMPLATES["SYSTEM_UNDERSTANDING"], f"{tags}{example.question}"
    request = request_of(example)
    return TEMPLATES[request.system], request.user_text(TEMPLATES)


def collated(examples: Sequence[Example], words: Words, *, answered: bool = True) -> Batch:
    """Questions with their answers to be learnt; other examples with their prompts to be learnt.

    What a caption says next is what its states must hold, and those condition the transformer.
    With `answered` False the answers are left out: to be asked.
    """
    tokenizer, special = words.tokenizer, words.special
    dims = thinker_dims_of(words.sizes)
    rows, mels, lengths, pixels = [], [], [], []
    for example in examples:
        system, user = prompt_text(example)
        asked = tokenizer.encode(conversation(system, (), user))
        answer = "" if example.answer is None else example.answer
        said = tokenizer.encode(answer + "<|im_end|>") if answered else asked[:0]
        audios, videos = [], []
        if example.audio is not None:
            heard = mono(Audio(example.audio[None], RATE_HZ), rate_hz=HEARD_HZ)
            mel = log_mel(heard, bands=dims.mel_bands)
            audios.append(token_count(mel.shape[1]))
            chunks, frames = chunked(mel, frames=dims.chunk_frames)
            mels.append(chunks)
            lengths.append(frames)
        if example.frames is not None:
            pixels.append(patches(_looked_at(example), dims))
            side = _SEEN_PX // dims.patch_px // dims.merge
            videos.append(VideoTokens(grids=len(pixels[-1]), rows=side, columns=side, sound=None))
        ids = np.concatenate([asked, said])
        laid = placed(ids, special=special, audios=audios, videos=videos)
        learnt = np.full(len(laid.ids), _IGNORED)
        first = len(laid.ids) - len(said) if example.answer is not None else 1
        learnt[first - 1 : -1] = laid.ids[first:]
        media = (laid.ids == special.audio) | (laid.ids == special.video)
        learnt[:-1][media[1:]] = _IGNORED
        rows.append((laid.ids, laid.positions, learnt))
    longest = max(len(ids) for ids, _, _ in rows)

    def padded(row: np.ndarray, value: int) -> np.ndarray:
        width = [(0, 0)] * (row.ndim - 1) + [(0, longest - row.shape[-1])]
        return np.pad(row, width, constant_values=value)

    return Batch(
        ids=torch.tensor(np.stack([padded(ids, 0) for ids, _, _ in rows])),
        positions=torch.tensor(np.stack([padded(at, 0) for _, at, _ in rows], axis=1)),
        mask=torch.tensor(np.stack([padded(np.ones(len(i), np.int64), 0) for i, _, _ in rows])),
        wanted=torch.tensor(np.stack([padded(learnt, _IGNORED) for _, _, learnt in rows])),
        mel=torch.from_numpy(np.concatenate(mels)) if mels else None,
        lengths=torch.from_numpy(np.concatenate(lengths)) if lengths else None,
        pixels=torch.from_numpy(np.concatenate(pixels)) if pixels else None,
    )


def _looked_at(example: Example) -> Frames:
    """The frames of a video [n, 336, 336, 3] as the runtime shows them to the thinker."""
    assert example.frames is not None
    if example.question is not None:
        chosen = example.frames[list(spread_indices(len(example.frames), _SEEN_FRAMES))]
    else:
        slow = example.frames[::_SLOW_EVERY]
        chosen = np.stack([squashed(frame, _SLOW_PX, _SLOW_PX) for frame in slow])
    return np.stack([bicubic(frame, _SEEN_PX, _SEEN_PX) for frame in chosen])


def thinker_losses(
    thinker: TrainableThinker, batch: Batch, special: SpecialIds
) -> dict[str, Tensor]:
    """Cross-entropy of the tokens to come, and how many were the likeliest."""
    states, _ = thinker.model.with_cache(
        embedded(thinker, batch, special), batch.positions, batch.mask, None
    )
    asked = batch.wanted != _IGNORED
    logits, wanted = thinker.logits(states[asked]), batch.wanted[asked]
    right = (logits.argmax(-1) == wanted).float().mean()
    return {"loss": F.cross_entropy(logits, wanted), "right": right}


@torch.inference_mode()
def conditioning_states(
    thinker: TrainableThinker, batch: Batch, special: SpecialIds, *, layers: int
) -> list[Tensor]:
    """The states [n, H] of each prompt after so many layers, which condition the transformer."""
    states, _ = thinker.model.with_cache(
        embedded(thinker, batch, special), batch.positions, batch.mask, None, layers=layers
    )
    return [row[mask == 1] for row, mask in zip(states, batch.mask, strict=True)]


@torch.inference_mode()
def answers(
    thinker: TrainableThinker, examples: Sequence[Example], words: Words, *, most: int = 24
) -> list[str]:
    """Greedy answers to questions, all of one batch at once."""
    tokenizer, special = words.tokenizer, words.special
    batch = collated(examples, words, answered=False)
    batch = batch.to(thinker.model.embed_tokens.weight.device)
    lengths = batch.mask.sum(1)
    delta = batch.positions.amax((0, 2)) + 1 - lengths
    states, cache = thinker.model.with_cache(
        embedded(thinker, batch, special), batch.positions, batch.mask, None
    )
    rows = torch.arange(len(examples), device=lengths.device)
    token, mask = thinker.logits(states[rows, lengths - 1]).argmax(-1), batch.mask
    said = [token]
    for step in range(most - 1):
        at = (lengths + delta + step).expand(3, -1)[..., None]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        states, cache = thinker.model.with_cache(thinker.embed(token[:, None]), at, mask, cache)
        token = thinker.logits(states[:, 0]).argmax(-1)
        said.append(token)
    found = []
    for row in torch.stack(said, dim=1).tolist():
        end = next((i for i, token in enumerate(row) if token in special.stop), len(row))
        found.append(tokenizer.decode(row[:end]))
    return found


def embedded(thinker: TrainableThinker, batch: Batch, special: SpecialIds) -> Tensor:
    """Embeddings [B, S, H], media in place."""
    embeds = thinker.embed(batch.ids)
    if batch.mel is not None and batch.lengths is not None:
        rows = thinker.audio_tower(batch.mel, batch.lengths).flatten(0, 1)
        valid = _valid_rows(batch.lengths, thinker.sizes.audio.chunk_frames)
        embeds = embeds.masked_scatter((batch.ids == special.audio)[..., None], rows[valid])
    if batch.pixels is not None:
        side = _SEEN_PX // thinker.sizes.vision.patch_px
        tables = patch_tables(side, side, thinker_dims_of(thinker.sizes))
        seen = thinker.visual(
            batch.pixels,
            torch.tensor(tables.pos_hw, device=batch.pixels.device),
            torch.tensor(tables.window_id, device=batch.pixels.device),
        )
        embeds = embeds.masked_scatter((batch.ids == special.video)[..., None], seen.flatten(0, 1))
    return embeds


def _valid_rows(lengths: Tensor, frames: int) -> Tensor:
    """[chunks · rows] bool: which rows of each chunk are tokens of its clip (2 s at most)."""
    tokens = (lengths + 1) // 2 // 2
    return (torch.arange(frames // 4, device=tokens.device) < tokens[:, None]).flatten()
