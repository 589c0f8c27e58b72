"""What a call costs, by hand; that whole models are counted right is `tests/export`'s to show."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rt.architecture import Architecture, OobleckLevels, autoencoder_levels
from omni_rt.devices import DEVICES, device_named
from omni_rt.errors import BundleError, RequestError
from omni_rt.flops import step_flops
from omni_rt.manifest import ThinkerDims
from omni_rt.roofline import port_bytes, request_sizes, stage_cost, stage_flops, weight_bytes

from .tiny_bundle import DIMS

THINKER = ThinkerDims(
    layers=3,
    kv_heads=1,
    head_width=4,
    vocabulary=50,
    max_positions=64,
    mel_bands=8,
    chunk_frames=20,
    patch_px=14,
    temporal_patch=2,
    merge=2,
    window_px=112,
)
LEVELS = OobleckLevels(
    audio_channels=2, channels=(4, 8), strides=(10,), latent_channels=4, latent_taps=7
)
MODEL = Architecture(
    name="tiny",
    dims=replace(DIMS, thinker=THINKER),
    weights={"context": 3000, "dit_step": 5000, "vae_decoder": 700, "thinker_lm": 1408},
    encoder=LEVELS,
    decoder=LEVELS,
)


def test_the_slower_of_arithmetic_and_memory_decides() -> None:
    sizes, device = request_sizes(MODEL.dims), DEVICES["rtx4090"]
    cost = stage_cost(MODEL, "dit_step", sizes, device)
    assert cost.compute_s == cost.flops / device.peak["fp8"]
    assert cost.memory_s == cost.moved_bytes / device.bandwidth
    for bandwidth, bound in ((1e30, cost.compute_s), (1.0, float(cost.moved_bytes))):
        other = replace(device, bandwidth=bandwidth)
        assert stage_cost(MODEL, "dit_step", sizes, other).predicted_s == bound


def test_each_format_has_its_bytes_and_its_peak() -> None:
    sizes, device = request_sizes(MODEL.dims), DEVICES["rtx4090"]
    own, plain, integers = (
        stage_cost(MODEL, "dit_step", sizes, device, formats=formats)
        for formats in (None, {}, {"dit_step": "int8"})
    )
    assert plain.moved_bytes - own.moved_bytes == 5000
    assert own.compute_s == pytest.approx(plain.flops / 330.3e12)
    assert plain.compute_s == pytest.approx(plain.flops / 165.2e12)
    assert integers.compute_s == pytest.approx(plain.flops / 660.6e12)
    assert integers.moved_bytes == own.moved_bytes
    assert weight_bytes(MODEL, "thinker_lm", "int4") == 1408 // 2 + 1408 * 4 // 64


def test_what_a_step_takes_and_gives_by_hand() -> None:
    sizes = request_sizes(MODEL.dims, rows=2, prompt_tokens=7)
    context = 7 + DIMS.transcript_tokens
    latents, prepend = 2 * 4 * 6, 2 * 5 * 64
    cache = 2 * DIMS.depth * DIMS.heads * context * DIMS.head_width
    numbers = latents + 2 + prepend + context + cache + latents
    assert port_bytes(MODEL.dims, "dit_step", sizes) == 2 * numbers


def test_half_of_guided_rows_attend_and_all_of_an_odd_number() -> None:
    for rows, attending in ((1, 1), (2, 1), (3, 3), (8, 4)):
        sizes = request_sizes(MODEL.dims, rows=rows)
        assert (sizes["R"], sizes["Q"]) == (rows, attending)
        assert stage_flops(MODEL, "dit_step", sizes) == step_flops(
            MODEL.dims, rows=rows, attending=attending, context=sizes["P"]
        )


def test_words_are_guessed_after_the_last_token_only() -> None:
    head = 2 * THINKER.vocabulary * DIMS.hidden_width
    one, ten = (
        stage_flops(MODEL, "thinker_lm", request_sizes(MODEL.dims, prompt_tokens=tokens))
        for tokens in (1, 10)
    )
    layers = 2 * (1408 - THINKER.vocabulary * DIMS.hidden_width)
    scores = 4 * DIMS.hidden_width * THINKER.layers
    assert one == layers + head + scores
    assert ten == 10 * layers + head + 100 * scores


def test_a_long_prompt_reaches_the_loop_interpolated() -> None:
    sizes = request_sizes(MODEL.dims, prompt_tokens=1000)
    assert sizes["seq"] == 1000
    assert sizes["P"] == DIMS.context_tokens + DIMS.transcript_tokens


def test_a_convolution_is_counted_where_it_runs() -> None:
    # two levels by hand: 2·4 channels of 7 taps, three units of 4·4·(7 + 1), down by 20 taps,
    # and a tenth of the samples through 8·4 of 7
    at_samples = 2 * 4 * 7 + 3 * 4 * 4 * 8
    assert LEVELS.flops(100) == 2 * (100 * at_samples + 10 * (4 * 8 * 20 + 8 * 4 * 7))
    assert LEVELS.widest(100) == 400


def test_the_hardware_is_named_or_refused() -> None:
    assert device_named("orin").target == "orin"
    with pytest.raises(RequestError, match="no peak figures of 'gtx1080': one of rtx4090"):
        device_named("gtx1080")
    for device in DEVICES.values():
        formats = set(device.formats.values())
        assert "fp8" in device.peak or "fp8" not in formats


def vae(**half: object) -> object:
    """A configuration whose autoencoder has such halves."""
    config = {"channels": 4, "c_mults": [2], "strides": [10], "latent_dim": 4, **half}
    config |= {"in_channels": 2, "out_channels": 2}
    halves = {name: {"config": config} for name in ("encoder", "decoder")}
    return {"model": {"pretransform": {"config": halves}}}


def test_the_levels_of_an_autoencoder_are_its_configuration_s() -> None:
    encoder, decoder = autoencoder_levels(vae())
    assert decoder == LEVELS
    assert encoder == replace(LEVELS, latent_taps=3)


@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        {"model": {"pretransform": {"config": 3}}},
        vae(strides=[10, 2]),
        vae(strides=[0]),
        vae(c_mults=None),
        vae(channels="many"),
    ],
)
def test_a_bundle_without_its_configuration_is_one_error(config: object) -> None:
    with pytest.raises(BundleError, match="tells no autoencoder"):
        autoencoder_levels(config)


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"prompt_tokens": 0}, {"held_tokens": -1}])
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(RequestError, match="must be positive"):
        request_sizes(MODEL.dims, **wrong)
