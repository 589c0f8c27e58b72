"""Two bundles end to end: the same requests at equal noise, as latents and as sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omni_rt.audio import Audio
from omni_rt.audio_metrics import sound_difference
from omni_rt.bundle import Bundle
from omni_rt.compare_stages import Opened, parity_outputs
from omni_rt.compare_steps import parity_prepared
from omni_rt.comparison import Difference, Made
from omni_rt.encode import Encoder, Floats, Prepared
from omni_rt.errors import EngineError
from omni_rt.options import Sampling, nth_seed
from omni_rt.preprocess.chat import check_text
from omni_rt.sampling import Noise, run_plan
from omni_rt.senses import Senses
from omni_rt.tasks import Remove, Request, TextToAudio, TextToMusic, TextToSpeech
from omni_rt.thinker import Thinker
from omni_rt.verify import reference_plan

PARITY_INPUTS = "parity inputs"
REFERENCE_TRAJECTORY = "end_to_end"  # of parity files
_PROMPTS = {
    "T2A": "rain on a tin roof, and a dog barks twice",
    "T2M": "a slow melody on a piano",
    "TTS": "good morning, the train leaves at nine",
    "Remove": "the steady tone",
}

Pair = tuple[str, Audio, Audio]  # request, of A or the reference, of B or A


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sounds:
    """What one bundle made of the requests, in their order; no waveforms without a decoder."""

    latents: Sequence[Floats]  # [1, C, L] each
    waveforms: Sequence[Floats]  # [channels, samples] each


def requests_for(bundles: Sequence[Bundle], prompts: Sequence[str]) -> dict[str, Request]:
    """T2A for every prompt, or requests of our own: those that the stages of all allow.

    None at all if a bundle cannot turn words into conditioning. Raises RequestError for a prompt
    that is empty.
    """
    for prompt in prompts:
        check_text(prompt, what="prompt")
    if not all(_speaks(b, "thinker_embed", "thinker_cond", "signal") for b in bundles):
        return {}
    if prompts:
        return {f"T2A: {prompt}": TextToAudio(prompt=prompt) for prompt in prompts}
    found: list[tuple[str, Request]] = [
        ("T2A", TextToAudio(prompt=_PROMPTS["T2A"])),
        ("T2M", TextToMusic(prompt=_PROMPTS["T2M"])),
    ]
    if all(_speaks(b, "transcript") and b.manifest.text.vocabulary for b in bundles):
        found.append(("TTS", TextToSpeech(prompt=_PROMPTS["TTS"])))
    source = _tone_in_noise(bundles[0].manifest.dims.sample_rate_hz)
    found.append(("Remove", Remove(source=source, desc=_PROMPTS["Remove"])))
    return {f"{task}: {_PROMPTS[task]}": request for task, request in found}


def _speaks(bundle: Bundle, *stages: str) -> bool:
    text = bundle.manifest.text
    complete = text.tokenizer is not None and text.prompts is not None
    return complete and bundle.manifest.graphs.keys() >= {*stages, "context", "dit_step"}


def _tone_in_noise(rate_hz: int) -> Audio:
    """Two seconds of a tone at 440 Hz under bursts of noise."""
    time_s = np.arange(2 * rate_hz) / rate_hz
    noise = np.random.RandomState(0).standard_normal(len(time_s)) * (np.sin(8 * time_s) > 0.5)
    mixed = 0.3 * np.sin(2 * np.pi * 440 * time_s) + 0.1 * noise
    return Audio(mixed.astype(np.float32)[None], rate_hz)


def prepared_requests(side: Opened, requests: Mapping[str, Request]) -> list[Prepared]:
    """Keys, values and prepended tokens of each request, all by this bundle's own stages."""
    senses = Senses(side.bundle, side.pool)
    thinker = Thinker(side.bundle, side.pool, senses.cache)
    encoder = Encoder(side.bundle, side.pool, senses, thinker)
    conditionings = [encoder.encode(request)[0] for request in requests.values()]
    return [encoder.prepare(one, with_negative=False) for one in conditionings]


def made_by(side: Opened, prepared: Sequence[Prepared], how: Sampling, seed: int) -> Sounds:
    """Latents and waveforms of requests, the i-th with noise of seed + i.

    Raises EngineError for latents or sound that are not finite.
    """
    dims = side.bundle.manifest.dims
    shape, latents = (dims.latent_channels, dims.latent_frames), []
    for index, one in enumerate(prepared):
        noise = Noise(nth_seed(seed, index), shape)
        rows = [noise.draw()[None] for _ in range(how.plan.renoise_rows)]
        latents.append(_sampled(side, how, one, noise.initial[None], np.array(rows, np.float32)))
    return Sounds(latents=latents, waveforms=decoded(side, latents))


def _sampled(
    side: Opened, how: Sampling, prepared: Prepared, start: Floats, renoise: Floats
) -> Floats:
    engine = side.pool.get("dit_step")
    try:
        latents, _ = run_plan(engine, how, [prepared], start=start, renoise=renoise)
    except EngineError as error:
        raise EngineError(f"{side.bundle.directory}: {error}") from error
    return latents


def reference_sampling(bundle: Bundle) -> Sampling | None:
    """How the reference went from noise to the latents in the parity files, if it did."""
    if REFERENCE_TRAJECTORY not in bundle.manifest.parity:
        return None
    given = parity_outputs(bundle, REFERENCE_TRAJECTORY, ("steps", "cfg_scale"))
    plan = reference_plan(bundle.parity(REFERENCE_TRAJECTORY))
    return Sampling(plan=plan, cfg_scale=float(given["cfg_scale"]))


def retraced(side: Opened, how: Sampling) -> tuple[Sounds, Sounds]:
    """The latents of the reference's trajectory, and what this bundle makes of its inputs.

    Both are decoded by this bundle: no waveforms of the reference are carried.
    """
    given = parity_outputs(side.bundle, REFERENCE_TRAJECTORY, ("noise", "latents"))
    prepared = parity_prepared(side, [side])
    start = np.asarray(given["noise"], np.float32)
    latents = _sampled(side, how, prepared, start, np.zeros((0,), np.float32))
    reference = np.asarray(given["latents"], np.float32)
    return (
        Sounds(latents=[reference], waveforms=decoded(side, [reference])),
        Sounds(latents=[latents], waveforms=decoded(side, [latents])),
    )


def decoded(side: Opened, latents: Sequence[Floats]) -> list[Floats]:
    """Waveforms [channels, samples] of latents [1, C, L]; none if the bundle has no decoder."""
    if "vae_decoder" not in side.stages:
        return []
    runs = (side.run("vae_decoder", {"latents": one})["waveform"][0] for one in latents)
    return [np.asarray(waveform, np.float32) for waveform in runs]


def compared_sounds(
    names: Sequence[str], reference: Sounds, value: Sounds, *, rate_hz: int
) -> tuple[list[Made], list[Pair]]:
    """What became of each request, and the sounds side by side where both have them."""
    both = bool(reference.waveforms and value.waveforms)
    made, pairs = [], []
    for i, name in enumerate(names):
        sound = None
        if both:
            clips = reference.waveforms[i], value.waveforms[i]
            sound = sound_difference(clips[1], clips[0], rate_hz=rate_hz)
            pairs.append((name, Audio(clips[0], rate_hz), Audio(clips[1], rate_hz)))
        difference = Difference.of(value.latents[i], reference.latents[i])
        made.append(Made(request=name, latents=difference, sound=sound))
    return made, pairs
