"""Seeded inputs for every stage and what the torch reference makes of them: `parity/*.npz`.

The reference is run as the original runs: full masked context, both guidance branches in one
batch, nothing regrouped. So each comparison proves the regrouping as well as the graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omni_rt.export.reference.autoencoder import Oobleck
from omni_rt.export.reference.dit import guided_velocity, split_heads
from omni_rt.export.reference.model import AudioOmni
from omni_rt.export.reference.sampler import sample_euler
from omni_rt.manifest import Dims
from omni_rt.metrics import rel_l2
from omni_rt.verify import FLOOR

Arrays = dict[str, NDArray[np.generic]]

CFG_SCALE = 7.0
_HIDDEN_TOKENS, _VAE_FRAMES = 24, 12
_TIMES = (0.83, 0.37)  # of the conditional and the unconditional row


def _floors(**pairs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """How far the fp32 reference itself is from fp64, by output: `floor_<output>`."""
    return {
        FLOOR + name: torch.tensor(rel_l2(single.numpy(), exact.numpy()))
        for name, (single, exact) in pairs.items()
    }


class ParityInputs:
    """One seeded request, shared by all stages; a fixed stream, so bundles are reproducible."""

    def __init__(
        self,
        dims: Dims,
        *,
        vocabulary: int,
        hidden_tokens: int = _HIDDEN_TOKENS,
        seed: int = 20_260,
    ) -> None:
        stream = np.random.RandomState(seed)

        def normal(*shape: int) -> Tensor:
            return torch.from_numpy(stream.standard_normal(shape).astype(np.float32))

        tokens = min(hidden_tokens, dims.context_tokens)
        characters = stream.randint(0, vocabulary - 1, (1, min(40, dims.transcript_ids)))
        self.ids = torch.full((1, dims.transcript_ids), -1, dtype=torch.int64)
        self.ids[:, : characters.shape[1]] = torch.from_numpy(characters)
        self.hidden = normal(1, tokens, dims.hidden_width)
        time_s = torch.arange(dims.window_samples) / dims.sample_rate_hz
        chirp = torch.sin(2 * torch.pi * (110 + 40 * time_s) * time_s)
        self.waveform = (0.4 * chirp + 0.05 * normal(dims.window_samples))[None]
        self.mel_keep = torch.ones(1, dims.mel_frames, dtype=torch.bool)
        self.mel_keep[:, dims.mel_frames // 2 : dims.mel_frames // 2 + 9] = False
        self.sync = normal(1, dims.sync_rows, dims.sync_width)
        self.noise = normal(1, dims.latent_channels, dims.latent_frames)
        self.latents = normal(1, dims.latent_channels, _VAE_FRAMES)
        self.audio = 0.3 * normal(1, dims.audio_channels, _VAE_FRAMES * dims.downsampling_ratio)


def numpy_arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    return {name: value.contiguous().numpy() for name, value in tensors.items()}


class ParityReference:
    """Reference outputs for the inputs, one stage at a time."""

    def __init__(self, model: AudioOmni, given: ParityInputs) -> None:
        self.model, self.given = model, given

    @torch.inference_mode()
    def stage(self, name: str) -> Arrays:
        """Inputs and reference outputs of a stage, by the graph's names."""
        return numpy_arrays(self._STAGES[name](self))

    @torch.inference_mode()
    def end_to_end(self, *, steps: int, on_step: Callable[[int], None]) -> Arrays:
        """Latents after `steps` guided Euler steps from the same noise; tells before each."""
        latents = sample_euler(
            self.model.dit,
            self.given.noise,
            self.conditioning,
            steps=steps,
            cfg_scale=CFG_SCALE,
            on_step=on_step,
        )
        return numpy_arrays({"noise": self.given.noise, "latents": latents})

    @torch.inference_mode()
    def guided_velocity(self, t: float) -> NDArray[np.generic]:
        """One guided velocity [1, C, L] as the original evaluates it."""
        velocity = guided_velocity(
            self.model.dit,
            self.given.noise,
            torch.tensor([t]),
            self.conditioning,
            cfg_scale=CFG_SCALE,
        )
        return numpy_arrays({"v": velocity})["v"]

    @cached_property
    def conditioning(self) -> tuple[Tensor, Tensor, Tensor]:
        """Context, its mask and the low-level tokens, as the original assembles them."""
        return (*self._context(), self._low_level())

    def _speech(self) -> Tensor:
        return self.model.speech_prompt.embed(self.given.ids)

    def _context(self) -> tuple[Tensor, Tensor]:
        """Padded, masked context [1, P, 768] and its mask, as the original assembles them."""
        tokens, mask = self.model.omni_prompt([self.given.hidden[0]])
        speech = self._speech()
        ones = torch.ones(speech.shape[:2], dtype=torch.bool)
        return torch.cat([tokens, speech], dim=1), torch.cat([mask, ones], dim=1)

    def _low_level(self) -> Tensor:
        mel = self.model.audio_input_prompt
        log_mel = mel.log_mel(self.given.waveform).masked_fill(~self.given.mel_keep[:, None], 0.0)
        return torch.cat([self.model.sync_feature(self.given.sync), mel.project(log_mel)], dim=1)

    def _transcript(self) -> dict[str, Tensor]:
        return {"ids": self.given.ids, "transcript": self._speech()}

    def _signal(self) -> dict[str, Tensor]:
        given = self.given
        prepend = self.model.dit.to_global_embed(self._low_level())
        inputs = {"waveform": given.waveform, "mel_keep": given.mel_keep, "sync": given.sync}
        return {**inputs, "prepend": prepend}

    def _context_stage(self) -> dict[str, Tensor]:
        tokens, mask = self._context()
        embedded = self.model.dit.to_cond_embed(tokens[:, mask[0]])
        arrays = {"hidden": self.given.hidden, "transcript": self._speech()}
        for i, layer in enumerate(self.model.dit.transformer.layers):
            attention = layer.get_submodule("cross_attn")
            k, v = attention.get_submodule("to_kv")(embedded).chunk(2, dim=-1)
            heads = self.model.dit.sizes.heads
            arrays |= {f"k_{i:02d}": split_heads(k, heads), f"v_{i:02d}": split_heads(v, heads)}
        return arrays

    def _dit_step(self) -> dict[str, Tensor]:
        """A guided evaluation: one conditional row, one unconditional. Keys are `context`'s."""
        context, mask = self._context()
        low_level = self._low_level()
        x, t = torch.cat([self.given.noise] * 2), torch.tensor(_TIMES)
        v = self.model.dit(
            x,
            t,
            torch.cat([context, torch.zeros_like(context)]),
            torch.cat([mask, mask]),
            torch.cat([low_level, low_level]),
        )
        prepend = self.model.dit.to_global_embed(low_level)
        bias = torch.zeros(1, 1, 1, int(mask.sum()))
        return {
            "x": x,
            "t": t,
            "prepend": torch.cat([prepend, prepend]),
            "context_bias": bias,
            "v": v,
        }

    def _vae_decoder(self) -> dict[str, Tensor]:
        latents = self.given.latents
        waveform = self.model.autoencoder.decode(latents)
        exact = self._exact_autoencoder().decode(latents.double())
        return {"latents": latents, "waveform": waveform, **_floors(waveform=(waveform, exact))}

    def _vae_encoder(self) -> dict[str, Tensor]:
        audio = self.given.audio
        mean, std = self.model.autoencoder.encode(audio)
        exact_mean, exact_std = self._exact_autoencoder().encode(audio.double())
        floors = _floors(mean=(mean, exact_mean), std=(std, exact_std))
        return {"waveform": audio, "mean": mean, "std": std, **floors}

    def _exact_autoencoder(self) -> Oobleck:
        """The autoencoder in fp64: its sines amplify rounding as much as its weights make them."""
        return copy.deepcopy(self.model.autoencoder).double()

    _STAGES: Mapping[str, Callable[[ParityReference], dict[str, Tensor]]] = {
        "transcript": _transcript,
        "context": _context_stage,
        "signal": _signal,
        "dit_step": _dit_step,
        "vae_decoder": _vae_decoder,
        "vae_encoder": _vae_encoder,
    }
