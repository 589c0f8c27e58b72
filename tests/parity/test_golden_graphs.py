"""The exported graphs, driven by the C++ loop, reproduce the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from omni_rt import Audio, Conditioning, Plan, Session
from omni_rt.audio import peak_normalised
from omni_rt.engines.ort import OrtEngine
from omni_rt.plans import Row
from omni_rt.preprocess.transcript import filled
from tests.parity.tolerances import assert_close

Arrays = Mapping[str, np.ndarray]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def golden_session(golden_bundle: Path) -> Iterator[Session]:
    with Session(golden_bundle) as opened:
        yield opened


def engine(session: Session, stage: str) -> OrtEngine:
    bundle = session.bundle
    return OrtEngine(bundle.path(bundle.graph(stage).path), bundle.graph(stage), threads=None)


def waveform(arrays: Arrays) -> np.ndarray:
    return arrays["mel/wav_int16"].astype(np.float32) / 32768


def conditioning(arrays: Arrays, case: str) -> Conditioning:
    if case == "t2a":
        return Conditioning.from_arrays(hidden=arrays["omni/feat0"])
    return Conditioning.from_arrays(
        hidden=arrays["omni/feat0"],
        transcript_ids=arrays["speech/zh_ids"],
        sync=arrays["sync/input"][0],
        waveform=waveform(arrays),
    )


def velocity_plan(t: float) -> Plan:
    """The loop as a velocity: x' = 0·x + 1·v."""
    return Plan(name="velocity", rows=(Row(t=t, a=0.0, b=(1.0,)),), grid=(1.0, 0.0))


@pytest.mark.parametrize("text", ["en", "zh", "mix", "long", "short", "empty"])
def test_transcript_graph(text: str, golden_session: Session, golden_arrays: Arrays) -> None:
    ids = filled(golden_arrays[f"speech/{text}_ids"], 96)
    found = engine(golden_session, "transcript").run(ids=ids)["transcript"]
    assert_close(found, golden_arrays[f"speech/{text}_embed"], "conditioners")


def test_silence_is_the_stored_constant(golden_session: Session, golden_arrays: Arrays) -> None:
    found = golden_session.bundle.empty_transcript
    assert np.array_equal(found, golden_arrays["speech/none_embed"])


@pytest.mark.parametrize("case", ["t2a", "tts"])
@pytest.mark.parametrize("t", ["1.0", "0.37"])
@pytest.mark.parametrize("cfg", [1, 6, 7])
def test_velocity(
    case: str, t: str, cfg: int, golden_session: Session, golden_arrays: Arrays
) -> None:
    found = golden_session.sample(
        conditioning(golden_arrays, case),
        noise=golden_arrays["dit/x"],
        plan=velocity_plan(float(t)),
        cfg_scale=cfg,
    )
    tolerance = "velocity_cfg_1" if cfg == 1 else "velocity_guided"
    assert_close(found, golden_arrays[f"dit/{case}/v_t{t}_cfg{cfg}"], tolerance)


@pytest.mark.parametrize("case", ["t2a", "tts"])
def test_velocity_with_rescale(case: str, golden_session: Session, golden_arrays: Arrays) -> None:
    found = golden_session.sample(
        conditioning(golden_arrays, case),
        noise=golden_arrays["dit/x"],
        plan=velocity_plan(0.37),
        cfg_scale=7.0,
        rescale=0.7,
    )
    assert_close(found, golden_arrays[f"dit/{case}/v_t0.37_cfg7_phi0.7"], "velocity_guided")


@pytest.mark.parametrize("case", ["t2a", "tts"])
@pytest.mark.parametrize(("steps", "cfg"), [(8, 7), (100, 7), (8, 1)])
def test_latents(
    case: str, steps: int, cfg: int, golden_session: Session, golden_arrays: Arrays
) -> None:
    found = golden_session.sample(
        conditioning(golden_arrays, case),
        noise=golden_arrays["rf/noise"],
        plan=f"euler-{steps}",
        cfg_scale=cfg,
    )
    assert_close(found, golden_arrays[f"rf/{case}/latent_steps{steps}_cfg{cfg}"], "latents")


def test_autoencoder(golden_session: Session, golden_arrays: Arrays) -> None:
    for suffix in ("", "_short"):
        found = golden_session.decode(golden_arrays[f"vae/decode_in{suffix}"])
        assert_close(found, golden_arrays[f"vae/decode_out{suffix}"], "vae")
    out = engine(golden_session, "vae_encoder").run(waveform=golden_arrays["vae/encode_in"])
    assert_close(out["mean"], golden_arrays["vae/encode_mean"], "vae")
    assert_close(out["std"], golden_arrays["vae/encode_std"], "vae")


def test_end_to_end(golden_session: Session, golden_arrays: Arrays) -> None:
    given = Conditioning.from_arrays(
        hidden=golden_arrays["omni/feat0"],
        transcript_ids=golden_arrays["speech/en_ids"],
        waveform=waveform(golden_arrays),
    )
    latents = golden_session.sample(given, noise=golden_arrays["e2e/noise"], plan="euler-8")
    assert_close(latents, golden_arrays["e2e/latent_steps8_cfg7"], "latents")
    audio = golden_session.decode(latents)
    assert_close(audio, golden_arrays["e2e/audio"], "audio")
    samples = Audio(peak_normalised(audio[0]), 44_100).int16()
    assert_close(samples, golden_arrays["e2e/int16"], "int16")


def test_over_long_states_are_interpolated(golden_session: Session, golden_arrays: Arrays) -> None:
    """57 states on a model of 40: as many context tokens, and the interpolation's values."""
    given = Conditioning.from_arrays(hidden=golden_arrays["omni/feat1"])
    latents = golden_session.sample(given, noise=golden_arrays["rf/noise"], plan="euler-1")
    cut = Conditioning.from_arrays(hidden=golden_arrays["omni/feat1"][:40])
    assert np.isfinite(latents).all()
    other = golden_session.sample(cut, noise=golden_arrays["rf/noise"], plan="euler-1")
    assert not np.allclose(latents, other, atol=1e-3)


def test_the_bundle_certifies_itself(golden_session: Session) -> None:
    certificate = golden_session.bundle.manifest.certificate
    assert certificate is not None
    measured = {**certificate.stages, **certificate.end_to_end}
    assert {name.split("/")[0] for name in measured} == set(golden_session.bundle.manifest.graphs)
    assert all(m.passed for m in measured.values())
