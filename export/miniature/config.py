"""The miniature's configuration, in the official schema: 8 kHz, clips of 2 s, 176 latent channels.

32 frames of 176 channels, each half a step of the sequencer: the autoencoder compresses three to
one, and the transformer has few tokens. Widths are multiples of 128 and heads 64 wide, so that the
kernels of low precisions apply, except where a sense has nothing hard to see.
"""

from __future__ import annotations

from typing import Any

from omni_rt.export.miniature.data import CLIP_SAMPLES, RATE_HZ
from omni_rt.export.miniature.data.clip import WINDOW_SAMPLES

STRIDES = (4, 8, 16)
DOWNSAMPLING = 512
LATENT_CHANNELS = 176
WIDTH, DEPTH, HEADS = 256, 3, 4
COND_WIDTH = 128
HIDDEN_WIDTH = 128
CONTEXT_TOKENS = 64
GUIDANCE = 1.5  # by validation (docs/MINIATURE.md)
THINKER_LAYER = -2  # whose states condition the transformer, from the last
# A token of each sense for each latent, at a constant distance: attention finds its own moment.
LATENTS = CLIP_SAMPLES // DOWNSAMPLING
SYNC_WIDTH, SYNC_ROWS, SYNC_TOKENS = 32, 40, LATENTS  # 5 segments of 8 tubelets in 2 s of video
MEL_BANDS, N_FFT, HOP_SAMPLES = 80, 1024, DOWNSAMPLING
MEL_FRAMES = MEL_TOKENS = WINDOW_SAMPLES // HOP_SAMPLES + 1
assert MEL_TOKENS == LATENTS
TRANSCRIPT_IDS, TRANSCRIPT_TOKENS = 64, 32


def _oobleck(latent_dim: int, **channels: int) -> dict[str, Any]:
    sizes = {
        "channels": 8,
        "c_mults": [4, 4, 22],
        "strides": list(STRIDES),
        "latent_dim": latent_dim,
        "use_snake": True,
    }
    return {"type": "oobleck", "config": {**channels, **sizes}}


def miniature_config() -> dict[str, Any]:
    """The configuration that goes with the miniature's checkpoint."""
    decoder = _oobleck(LATENT_CHANNELS, out_channels=2)
    decoder["config"]["final_tanh"] = False
    autoencoder = {
        "encoder": _oobleck(2 * LATENT_CHANNELS, in_channels=2),
        "decoder": decoder,
        "bottleneck": {"type": "vae"},
        "latent_dim": LATENT_CHANNELS,
        "downsampling_ratio": DOWNSAMPLING,
        "io_channels": 2,
    }
    mel = {
        "n_fft": N_FFT,
        "hop_length": HOP_SAMPLES,
        "win_length": N_FFT,
        "n_mel_channels": MEL_BANDS,
        "target_sample_rate": RATE_HZ,
        "seq_len": MEL_TOKENS,
    }
    speech = {"seq_len": TRANSCRIPT_IDS, "proj_seq_len": TRANSCRIPT_TOKENS}
    conditioners = [
        {
            "id": "omni_prompt",
            "type": "qwen_omni",
            "config": {"pad_length": CONTEXT_TOKENS, "layer_idx": THINKER_LAYER},
        },
        {"id": "sync_feature", "type": "sync_feature", "config": {"sync_seq_dim": SYNC_ROWS}},
        {"id": "speech_prompt", "type": "tts-f5", "config": speech},
        {"id": "audio_input_prompt", "type": "mel_spec", "config": mel},
    ]
    diffusion = {
        "high_level_cond_ids": ["omni_prompt", "speech_prompt"],
        "low_level_cond_ids": ["sync_feature", "audio_input_prompt"],
        "type": "dit",
        "diffusion_objective": "rectified_flow",
        "config": {
            "io_channels": LATENT_CHANNELS,
            "embed_dim": WIDTH,
            "depth": DEPTH,
            "num_heads": HEADS,
            "cond_token_dim": COND_WIDTH,
            "global_cond_dim": COND_WIDTH,
            "project_cond_tokens": True,
            "transformer_type": "continuous_transformer",
        },
    }
    return {
        "model_type": "diffusion_cond",
        "sample_size": CLIP_SAMPLES,
        "sample_rate": RATE_HZ,
        "video_fps": 5,
        "audio_channels": 2,
        "guidance": GUIDANCE,
        "model": {
            "pretransform": {"type": "autoencoder", "iterate_batch": True, "config": autoencoder},
            "conditioning": {"configs": conditioners, "cond_dim": COND_WIDTH},
            "diffusion": diffusion,
            "io_channels": LATENT_CHANNELS,
        },
    }
