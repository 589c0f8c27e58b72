"""Examples → what conditions the transformer, exactly as a session makes it of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omni_rt.audio import Audio
from omni_rt.contract import SYNC_FRAME_PX, SYNC_SEGMENT_FRAMES, sync_starts
from omni_rt.export.miniature.config import (
    CONTEXT_TOKENS,
    SYNC_ROWS,
    SYNC_WIDTH,
    THINKER_LAYER,
    TRANSCRIPT_IDS,
)
from omni_rt.export.miniature.data import Example
from omni_rt.export.miniature.data.clip import WINDOW_SAMPLES, Frames
from omni_rt.export.miniature.data.speech import TRANSCRIPT_CHARACTERS
from omni_rt.export.miniature.requests import request_of
from omni_rt.export.miniature.text import Words
from omni_rt.export.miniature.thinker import (
    TrainableThinker,
    collated,
    conditioning_states,
    prompt_text,
)
from omni_rt.export.reference.conditioners import shorten
from omni_rt.export.reference.model import AudioOmni
from omni_rt.export.reference.synchformer import Synchformer
from omni_rt.export.reference.thinker import kept_layers
from omni_rt.preprocess import transcript
from omni_rt.preprocess.resize import normalised
from omni_rt.preprocess.waveform import fitted
from omni_rt.tasks import Request

_CHARACTERS = {character: index for index, character in enumerate(TRANSCRIPT_CHARACTERS)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditions:
    """What the model is given for B examples, before any weights of its own."""

    hidden: list[Tensor]  # thinker states [n, H]
    ids: list[Tensor | None]  # characters [TRANSCRIPT_IDS] before the shift, None: no speech
    waveform: Tensor  # [B, WINDOW_SAMPLES], silence where nothing is given
    sync: Tensor  # [B, SYNC_ROWS, SYNC_WIDTH], zeros without a video


class Senses:
    """The frozen parts that come before the conditioners."""

    def __init__(self, thinker: TrainableThinker, synchformer: Synchformer, words: Words) -> None:
        self._thinker, self._synchformer, self._words = thinker, synchformer, words
        self._layers = kept_layers(thinker.sizes, THINKER_LAYER)
        self._device = thinker.model.embed_tokens.weight.device
        self._of_text: dict[tuple[str, str], Tensor] = {}  # there are a few thousand captions
        self._of_video: dict[tuple[str, str, bytes], tuple[Tensor, Tensor]] = {}

    def conditions(self, examples: Sequence[Example]) -> Conditions:
        """What a session would give the model for these examples."""
        requests = [request_of(example) for example in examples]
        waves = np.stack([_waveform(request) for request in requests])
        texts = [prompt_text(example) for example in examples]
        silent = {text: e for text, e in zip(texts, examples, strict=True) if e.frames is None}
        new = {text: e for text, e in silent.items() if text not in self._of_text}
        self._of_text |= dict(zip(new, self._states(list(new.values())), strict=True))
        dark = torch.zeros(SYNC_ROWS, SYNC_WIDTH, device=self._device)
        sensed = [
            (self._of_text[text], dark) if example.frames is None else self._watched(text, example)
            for text, example in zip(texts, examples, strict=True)
        ]
        return Conditions(
            hidden=[hidden for hidden, _ in sensed],
            ids=[_characters(request, self._device) for request in requests],
            waveform=torch.from_numpy(waves).to(self._device),
            sync=torch.stack([sync for _, sync in sensed]),
        )

    def _watched(self, text: tuple[str, str], example: Example) -> tuple[Tensor, Tensor]:
        """States and rows of a video, which is watched once: that costs as much as ten examples."""
        assert example.frames is not None
        key = (*text, sha256(example.frames.tobytes()).digest())
        if key not in self._of_video:
            self._of_video[key] = (self._states([example])[0], self._sync(example.frames))
        return self._of_video[key]

    def _states(self, examples: Sequence[Example]) -> list[Tensor]:
        if not examples:
            return []
        batch = collated(examples, self._words, answered=False)
        states = conditioning_states(
            self._thinker, batch.to(self._device), self._words.special, layers=self._layers
        )
        return [shorten(row, CONTEXT_TOKENS) for row in states]

    @torch.inference_mode()
    def _sync(self, frames: Frames) -> Tensor:
        return self._synchformer(sync_segments(frames).to(self._device))


def sync_segments(frames: Frames) -> Tensor:
    """Frames [50, h, w, 3] at 25 a second → segments [5, 16, 3, 224, 224] in [−1, 1]."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    large = F.interpolate(pixels, (SYNC_FRAME_PX, SYNC_FRAME_PX), mode="bilinear", antialias=True)
    rounded = large.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    values = torch.from_numpy(normalised(rounded))
    return torch.stack(
        [values[start : start + SYNC_SEGMENT_FRAMES] for start in sync_starts(len(frames))]
    )


def _waveform(request: Request) -> np.ndarray:
    clip = request.clip()
    samples = clip.samples[0] if isinstance(clip, Audio) else np.zeros(0, np.float32)
    return fitted(samples, WINDOW_SAMPLES)


def _characters(request: Request, device: torch.device) -> Tensor | None:
    words = request.spoken()
    if words is None:
        return None
    ids = transcript.transcript_ids(words, _CHARACTERS)
    return torch.from_numpy(transcript.filled(ids, TRANSCRIPT_IDS)[0]).to(device)


def context_of(model: AudioOmni, conditions: Conditions) -> tuple[Tensor, Tensor]:
    """Context [B, P, COND_WIDTH] and its mask [B, P], as a session assembles each alone."""
    most = max(len(states) for states in conditions.hidden)
    padded = torch.stack([F.pad(h, (0, 0, 0, most - len(h))) for h in conditions.hidden])
    lengths = torch.tensor([len(states) for states in conditions.hidden], device=padded.device)
    mask = torch.arange(most, device=padded.device) < lengths[:, None]
    speech = model.speech_prompt.empty_speech_feat.repeat(len(padded), 1, 1)
    spoken = [row for row, ids in enumerate(conditions.ids) if ids is not None]
    if spoken:
        words = torch.stack([ids for ids in conditions.ids if ids is not None])
        speech = speech.index_copy(
            0, torch.tensor(spoken, device=speech.device), model.speech_prompt.embed(words)
        )
    tokens = torch.cat([model.omni_prompt.project(padded), speech], dim=1)
    return tokens, F.pad(mask, (0, speech.shape[1]), value=True)


def low_level_of(model: AudioOmni, conditions: Conditions) -> Tensor:
    """The prepended tokens [B, N, COND_WIDTH]."""
    return torch.cat(
        [model.sync_feature(conditions.sync), model.audio_input_prompt(conditions.waveform)], dim=1
    )
