"""The torch reference reproduces every array of the original."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omni_rt.export.checkpoint import open_checkpoint
from omni_rt.export.config import read_config
from omni_rt.export.reference.dit import guided_velocity
from omni_rt.export.reference.model import (
    AudioOmni,
    checked_tensors,
    load_reference,
)
from omni_rt.export.reference.sampler import sample_euler
from omni_rt.export.reference.thinker_config import ThinkerSizes
from omni_rt.export.reference.thinker_files import check_thinker, load_thinker
from omni_rt.preprocess.transcript import filled, read_vocabulary, tokenize, transcript_ids
from tests.parity.tolerances import TOLERANCES, assert_close

Arrays = Mapping[str, np.ndarray]
TEXTS = ("en", "zh", "mix", "long", "short", "empty")


@pytest.fixture(scope="module")
def model(golden: Path) -> AudioOmni:
    config, _ = read_config(golden / "upstream" / "config.json")
    checkpoint = open_checkpoint(golden / "upstream" / "model.ckpt")
    return load_reference(*checked_tensors(config, checkpoint.model))


@pytest.fixture
def arrays(golden_arrays: Arrays) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in golden_arrays.items()}


def conditioning(arrays: Mapping[str, torch.Tensor], case: str) -> tuple[torch.Tensor, ...]:
    return (
        arrays[f"dit/{case}/cross_attn_cond"],
        arrays[f"dit/{case}/cross_attn_mask"].bool(),
        arrays[f"dit/{case}/global_cond"],
    )


@pytest.mark.parametrize("text", TEXTS)
def test_transcripts_become_the_originals_tokens_and_ids(
    text: str, golden: Path, golden_meta: dict[str, Any]
) -> None:
    vocabulary = read_vocabulary(golden / "vocab" / "vocab.txt")
    words = golden_meta["texts"][text]
    assert tokenize(words) == golden_meta["tokens"][text]
    assert transcript_ids(words, vocabulary).tolist() == golden_meta["ids_before_shift"][text]


@pytest.mark.parametrize("text", TEXTS)
def test_speech_prompt(text: str, model: AudioOmni, arrays: dict[str, torch.Tensor]) -> None:
    ids = filled(arrays[f"speech/{text}_ids"].numpy(), 96)
    found = model.speech_prompt.embed(torch.from_numpy(ids))
    assert_close(found, arrays[f"speech/{text}_embed"], "conditioners")


def test_speech_prompt_inner_embedding(model: AudioOmni, arrays: dict[str, torch.Tensor]) -> None:
    ids = torch.from_numpy(filled(arrays["speech/zh_ids"].numpy(), 96))
    found = model.speech_prompt.text_embed(ids + 1)
    assert_close(found, arrays["speech/zh_textembed"], "text_embedding_fp16")


def test_speech_prompt_treats_silence_as_the_original(
    model: AudioOmni, arrays: dict[str, torch.Tensor]
) -> None:
    assert_close(model.speech_prompt([None]), arrays["speech/none_embed"], "conditioners")
    ids = [torch.from_numpy(filled(arrays[f"speech/{t}_ids"].numpy(), 96)[0]) for t in ("en", "zh")]
    mixed = model.speech_prompt([ids[0], None, ids[1]])
    assert_close(mixed, arrays["speech/batch_en_none_zh_embed"], "conditioners")


def test_omni_prompt_truncates_given_tensors(
    model: AudioOmni, arrays: dict[str, torch.Tensor]
) -> None:
    states = [arrays["omni/feat0"], arrays["omni/feat1"]]
    found, mask = model.omni_prompt(states, truncate=True)
    assert_close(found, arrays["omni/tensor_embed"], "conditioners")
    assert torch.equal(mask, arrays["omni/tensor_mask"])
    found, mask = model.omni_prompt([s.bfloat16() for s in states], truncate=True)
    assert_close(found, arrays["omni/tensor_bf16_embed"], "conditioners_bf16")
    assert torch.equal(mask, arrays["omni/tensor_bf16_mask"])


@pytest.mark.parametrize("case", [0, 1])
def test_omni_prompt_interpolates_over_long_states(
    case: int, model: AudioOmni, arrays: dict[str, torch.Tensor]
) -> None:
    states, wanted = arrays[f"omni/feat{case}"], arrays[f"omni/dict{case}_embed"]
    found, mask = model.omni_prompt([states.bfloat16()])
    assert_close(found, wanted, "conditioners_bf16")
    assert torch.equal(mask, arrays[f"omni/dict{case}_mask"])
    found, _ = model.omni_prompt([states])
    assert_close(found, wanted, "conditioners_bf16_in_fp32")


def test_sync_feature(model: AudioOmni, arrays: dict[str, torch.Tensor]) -> None:
    sync = arrays["sync/input"]
    assert_close(model.sync_feature(sync), arrays["sync/embed"], "conditioners")
    zero = model.sync_feature(torch.zeros_like(sync))
    assert_close(zero, arrays["sync/zero_embed"], "conditioners")


def test_mel_filterbank_is_the_originals_to_the_bit(
    model: AudioOmni, arrays: dict[str, torch.Tensor]
) -> None:
    assert torch.equal(model.audio_input_prompt.filterbank, arrays["mel/filterbank"])


def test_audio_input_prompt(model: AudioOmni, arrays: dict[str, torch.Tensor]) -> None:
    """Processors round FFTs differently, and the logarithm of weak bands shows it: the golden array
    itself is 4.1e-5 from an fp64 evaluation. That distance, computed here, is allowed on top.
    """
    mel = model.audio_input_prompt
    waveform = arrays["mel/wav_int16"].float()[None] / 32768
    spectrum = torch.stft(
        waveform.double(), mel.n_fft, mel.hop, window=mel.window.double(), return_complex=True
    )
    exact = (mel.filterbank.double().T @ spectrum.abs()).clamp(min=1e-5).log().float()
    own_rounding = (mel.project(exact) - arrays["mel/embed"]).abs().max().item()
    assert own_rounding < 5e-5
    assert_close(mel(waveform), arrays["mel/embed"], "conditioners", extra=own_rounding)
    silence = mel(torch.zeros_like(waveform))
    assert_close(silence, arrays["mel/zero_embed"], "conditioners")


def test_log_mel_has_the_originals_frames(
    model: AudioOmni, arrays: dict[str, torch.Tensor]
) -> None:
    found = model.audio_input_prompt.log_mel(arrays["mel/wav_int16"].float()[None] / 32768)
    assert found.shape == (1, 100, 1723)
    for name, part in (
        ("every8", found[:, :, ::8]),
        ("first32", found[:, :, :32]),
        ("last32", found[:, :, -32:]),
    ):
        error = (part - arrays[f"mel/logmel_{name}"]).square().mean().sqrt().item()
        assert error < 2e-5  # rms; two fp32 FFTs are 7e-6 from fp64 each
    assert_close(found.mean(-1), arrays["mel/logmel_mean"], "conditioners")


@pytest.mark.parametrize("case", ["t2a", "tts"])
@pytest.mark.parametrize("t", ["1.0", "0.37"])
@pytest.mark.parametrize("cfg", [1, 6, 7])
def test_velocity(
    case: str, t: str, cfg: int, model: AudioOmni, arrays: dict[str, torch.Tensor]
) -> None:
    found = guided_velocity(
        model.dit,
        arrays["dit/x"],
        torch.tensor([float(t)]),
        conditioning(arrays, case),
        cfg_scale=cfg,
    )
    tolerance = "velocity_cfg_1" if cfg == 1 else "velocity_guided"
    assert_close(found, arrays[f"dit/{case}/v_t{t}_cfg{cfg}"], tolerance)


@pytest.mark.parametrize("case", ["t2a", "tts"])
def test_velocity_with_rescale(
    case: str, model: AudioOmni, arrays: dict[str, torch.Tensor]
) -> None:
    found = guided_velocity(
        model.dit,
        arrays["dit/x"],
        torch.tensor([0.37]),
        conditioning(arrays, case),
        cfg_scale=7.0,
        rescale=0.7,
    )
    assert_close(found, arrays[f"dit/{case}/v_t0.37_cfg7_phi0.7"], "velocity_guided")


@pytest.mark.parametrize("cfg", [1, 6, 7])
def test_velocity_of_a_batch_with_holes_in_its_masks(
    cfg: int, model: AudioOmni, arrays: dict[str, torch.Tensor]
) -> None:
    found = guided_velocity(
        model.dit,
        arrays["dit/batch/x"],
        arrays["dit/batch/t"],
        conditioning(arrays, "batch"),
        cfg_scale=cfg,
    )
    tolerance = "velocity_cfg_1" if cfg == 1 else "velocity_guided"
    assert_close(found, arrays[f"dit/batch/v_cfg{cfg}"], tolerance)


def test_intermediates_of_one_evaluation(model: AudioOmni, arrays: dict[str, torch.Tensor]) -> None:
    dit, seen = model.dit, dict[str, torch.Tensor]()

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, output)

    blocks = dit.transformer.layers
    first = blocks[0]
    watched = {
        "cond_embed": dit.to_cond_embed,
        "global_embed_mlp": dit.to_global_embed,
        "timestep_features": dit.timestep_features,
        "timestep_embed": dit.to_timestep_embed,
        "block0_self_attn": first.self_attn,
        "block0_cross_attn": first.cross_attn,
        "block0_ff": first.ff,
        **{f"block{i}_out": block for i, block in enumerate(blocks)},
    }
    hooks = [module.register_forward_hook(keep(name)) for name, module in watched.items()]
    hooks.append(
        first.register_forward_pre_hook(
            lambda module, inputs: seen.__setitem__("block0_in", inputs[0])
        )
    )
    dit(arrays["dit/x"], torch.tensor([0.37]), *conditioning(arrays, "tts"))
    for hook in hooks:
        hook.remove()
    latents = arrays["dit/x"].shape[2]
    for name, value in seen.items():
        wanted = arrays[f"dit/inter_tts_t0.37/{name}"]
        if name == f"block{len(blocks) - 1}_out":  # spared the prepended tokens
            wanted = wanted[:, -latents:]
        assert_close(value, wanted, "velocity_cfg_1")
    assert len(seen) == 11


@pytest.mark.parametrize("case", ["t2a", "tts"])
@pytest.mark.parametrize(("steps", "cfg"), [(8, 7), (100, 7), (8, 1)])
def test_sampler(
    case: str, steps: int, cfg: int, model: AudioOmni, arrays: dict[str, torch.Tensor]
) -> None:
    found = sample_euler(
        model.dit, arrays["rf/noise"], conditioning(arrays, case), steps=steps, cfg_scale=cfg
    )
    assert_close(found, arrays[f"rf/{case}/latent_steps{steps}_cfg{cfg}"], "latents")


def test_autoencoder(model: AudioOmni, arrays: dict[str, torch.Tensor]) -> None:
    vae = model.autoencoder
    for suffix in ("", "_short"):
        found = vae.decode(arrays[f"vae/decode_in{suffix}"])
        assert_close(found, arrays[f"vae/decode_out{suffix}"], "vae")
    mean, std = vae.encode(arrays["vae/encode_in"])
    assert_close(mean, arrays["vae/encode_mean"], "vae")
    assert_close(std, arrays["vae/encode_std"], "vae")
    raw = vae.encoder(arrays["vae/encode_in"]).chunk(2, dim=1)[1]
    assert_close(raw, arrays["vae/encode_scale_raw"], "vae")


def test_end_to_end(model: AudioOmni, arrays: dict[str, torch.Tensor]) -> None:
    ids = torch.from_numpy(filled(arrays["speech/en_ids"].numpy(), 96))
    tokens, mask = model.omni_prompt([arrays["omni/feat0"]])
    speech = model.speech_prompt.embed(ids)
    sync = model.sync_feature(torch.zeros_like(arrays["sync/input"]))
    mel = model.audio_input_prompt(arrays["mel/wav_int16"].float()[None] / 32768)
    given = (
        torch.cat([tokens, speech], dim=1),
        torch.cat([mask, torch.ones(speech.shape[:2], dtype=torch.bool)], dim=1),
        torch.cat([sync, mel], dim=1),
    )
    latents = sample_euler(model.dit, arrays["e2e/noise"], given, steps=8, cfg_scale=7.0)
    assert_close(latents, arrays["e2e/latent_steps8_cfg7"], "latents")
    assert_close(model.autoencoder.decode(latents), arrays["e2e/audio"], "audio")


def test_thinker_states(golden: Path) -> None:
    config = json.loads((golden / "thinker" / "thinker_config.json").read_text(encoding="utf-8"))
    checkpoint = open_checkpoint(golden / "thinker" / "thinker.ckpt")
    states = np.load(golden / "thinker" / "golden.npz")
    sizes = ThinkerSizes.from_config(config)
    thinker = load_thinker(sizes, -2, check_thinker(sizes, -2, checkpoint.thinker))
    ids = torch.from_numpy(states["input_ids"])
    assert_close(thinker.embed(ids), states["float32/hidden0"], "thinker")
    assert_close(thinker(ids), states["float32/hidden2"], "thinker")
    wanted = states["bfloat16/hidden2"]
    spacing = 2.0 ** (np.floor(np.log2(np.abs(wanted).max())) - 7)
    worst = np.abs(thinker.bfloat16()(ids).float().numpy() - wanted).max()
    assert worst <= TOLERANCES["thinker_bf16_ulps"] * spacing
