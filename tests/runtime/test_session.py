"""The whole pipe on the stand-in: every task, every promise of `Session`."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_rt import (
    Add,
    Audio,
    BundleError,
    Cancelled,
    Conditioning,
    EngineError,
    Extract,
    RequestError,
    Session,
    TextToAudio,
    TextToMusic,
    TextToSpeech,
    UncertifiedWarning,
    make_plan,
)

pytestmark = pytest.mark.slow

PLAN = "euler-2"
RATE = 44_100


def tone(seconds: float, *, channels: int = 1, rate: int = RATE, hz: float = 330.0) -> Audio:
    t = np.arange(round(seconds * rate)) / rate
    wave = 0.4 * np.sin(2 * np.pi * hz * t, dtype=np.float64)
    return Audio(np.repeat(wave[None], channels, 0).astype(np.float32), rate)


def same(a: Audio, b: Audio) -> bool:
    return np.array_equal(a.samples, b.samples)


# Tasks


def test_text_to_audio_is_ten_seconds_at_full_peak_by_default(session: Session) -> None:
    audio = session.generate("T2A", prompt="rain", plan=PLAN, seed=1)
    assert audio.samples.shape == (2, 10 * RATE)
    whole = session.generate("T2A", prompt="rain", plan=PLAN, seed=1, duration_s=10.95)
    assert np.abs(whole.samples).max() <= 1.0
    assert same(Audio(whole.samples[:, : 10 * RATE], RATE), audio)


def test_tasks_and_prompts_lead_to_different_sounds(session: Session) -> None:
    made = [
        session.generate("T2A", prompt="rain", plan=PLAN, seed=1),
        session.generate("T2M", prompt="rain", plan=PLAN, seed=1),
        session.generate("T2A", prompt="wind", plan=PLAN, seed=1),
        session.generate("TTS", prompt="rain", plan=PLAN, seed=1),
        session.generate("TTS", prompt="wind", plan=PLAN, seed=1),
        session.generate("T2A", prompt="rain", negative_prompt="wind", plan=PLAN, seed=1),
        session.generate("T2A", prompt="rain", cfg_scale=1.0, plan=PLAN, seed=1),
        session.generate("T2A", prompt="rain", rescale=0.5, plan=PLAN, seed=1),
    ]
    pairs = [(a, b) for i, a in enumerate(made) for b in made[:i]]
    assert not any(same(a, b) for a, b in pairs)


def test_a_voice_prompt_is_heard_and_its_words_are_cut(session: Session) -> None:
    def speak(voice: Audio | None) -> Audio:
        words = None if voice is None else "a low hum"
        return session.generate(
            "TTS", prompt="hello", voice=voice, voice_transcript=words, plan=PLAN, seed=1
        )

    low, high = speak(tone(2.0)), speak(tone(2.0, hz=880.0))
    assert not same(low, high)
    assert low.duration_s <= 10.96 - 2.0
    long = speak(tone(9.0))  # the first 6 s are used
    assert long.duration_s <= 10.96 - 6.0
    converted = session.generate(
        "VC",
        transcript="hello",
        voice=tone(2.0),
        voice_transcript="a low hum",
        plan=PLAN,
        seed=1,
    )
    assert same(converted, low)


@pytest.mark.parametrize("task", ["Add", "Remove", "Extract"])
def test_an_edit_is_as_long_as_its_source(task: str, session: Session) -> None:
    source = tone(1.5, channels=6, rate=22_050)
    audio = session.edit(task, source, desc="a hum", plan=PLAN, seed=1)
    assert audio.samples.shape == (2, round(1.5 * RATE))
    assert audio.sample_rate_hz == RATE


def test_style_transfer_takes_two_categories(session: Session) -> None:
    audio = session.edit(
        "style_transfer",
        tone(1.0),
        source_category="hum",
        target_category="bell",
        plan=PLAN,
        seed=1,
    )
    assert audio.samples.shape == (2, RATE)


def test_a_long_source_is_edited_in_windows(session: Session) -> None:
    steps: list[tuple[int, int]] = []
    audio = session.edit(
        "Remove",
        tone(21.0),
        desc="a hum",
        plan=PLAN,
        seed=1,
        on_step=lambda done, total: steps.append((done, total)),
    )
    assert audio.samples.shape == (2, 21 * RATE)
    assert steps == [(i + 1, 6) for i in range(6)]  # three windows of two steps


def test_the_source_is_what_the_model_hears(session: Session) -> None:
    def edit(source: Audio) -> Audio:
        return session.edit("Add", source, desc="a bell", plan=PLAN, seed=1)

    assert not same(edit(tone(1.0)), edit(tone(1.0, hz=660.0)))
    silent = edit(Audio(np.zeros((1, RATE), np.float32), RATE))  # the documented behaviour
    assert np.isfinite(silent.samples).all()


def test_real_clips_of_all_kinds_are_edited(session: Session, golden: Path) -> None:
    for name in ("add.mp3", "remove.mp3", "extract.mp3", "transfer.mp3", "example.wav"):
        clip = Audio.read(golden / "media" / name)
        audio = session.edit("Extract", golden / "media" / name, desc="it", plan=PLAN, seed=1)
        assert abs(audio.duration_s - clip.duration_s) < 2e-3


# Determinism and batches


def test_the_same_seed_gives_the_same_bits(session: Session) -> None:
    for plan in ("ab3-3", "consistency-3", "dpmpp2m-4"):
        one = session.generate("T2A", prompt="rain", plan=plan, seed=11)
        assert same(one, session.generate("T2A", prompt="rain", plan=plan, seed=11))
        assert not same(one, session.generate("T2A", prompt="rain", plan=plan, seed=12))


def test_a_drawn_seed_is_recorded_and_repeats(session: Session) -> None:
    one = session.generate("T2A", prompt="rain", plan=PLAN)
    again = session.generate("T2A", prompt="rain", plan=PLAN, seed=one.made["seed"])
    assert same(one, again)
    assert one.made["plan"] == PLAN
    assert one.made["bundle"] == session.bundle.id


def test_a_batch_is_its_requests_one_by_one(session: Session) -> None:
    """To fp32 rounding: GEMMs of other shapes add in another order (guided, two steps)."""
    requests = [
        TextToAudio(prompt="rain"),
        TextToSpeech(prompt="a much longer text to speak than that"),
        Extract(source=tone(2.0), desc="a hum"),
        TextToMusic(prompt="a"),
    ]
    seeds = [5, 6, 7, 8]
    batch = session.generate_batch(requests, seeds=seeds, plan=PLAN)
    singles = [
        session.generate("T2A", prompt="rain", plan=PLAN, seed=5),
        session.generate("TTS", prompt="a much longer text to speak than that", plan=PLAN, seed=6),
        session.edit("Extract", tone(2.0), desc="a hum", plan=PLAN, seed=7),
        session.generate("T2M", prompt="a", plan=PLAN, seed=8),
    ]
    for many, one in zip(batch, singles, strict=True):
        assert many.samples.shape == one.samples.shape
        np.testing.assert_allclose(many.samples, one.samples, atol=1e-3)


def test_a_seeds_noise_does_not_depend_on_its_place(session: Session) -> None:
    conditioning = session.encode(TextToAudio(prompt="rain"))
    alone = session.sample(conditioning, seed=3, plan="consistency-2")
    batch = session.sample([conditioning] * 3, seed=[9, 3, 4], plan="consistency-2")
    np.testing.assert_allclose(batch[1:2], alone, atol=1e-3)


def test_negative_prompts_work_in_batches_too(session: Session) -> None:
    requests = [TextToAudio(prompt="rain"), TextToAudio(prompt="wind on a wide plain")]
    batch = session.generate_batch(
        requests, seeds=[1, 2], negative_prompts=["hiss", "rumble and hum"], plan=PLAN
    )
    single = session.generate("T2A", prompt="rain", negative_prompt="hiss", plan=PLAN, seed=1)
    np.testing.assert_allclose(batch[0].samples, single.samples, atol=1e-3)


# Phases


def test_the_three_phases_are_what_generate_does(session: Session) -> None:
    conditioning = session.encode(TextToAudio(prompt="rain"))
    latents = session.sample(conditioning, seed=4, plan=PLAN, cfg_scale=7.0)
    waveform = session.decode(latents)
    whole = session.generate("T2A", prompt="rain", seed=4, plan=PLAN, normalise=False)
    assert np.array_equal(waveform[0][:, : 10 * RATE], whole.samples)


def test_conditioning_can_come_from_arrays(session: Session) -> None:
    encoded = session.encode(TextToSpeech(prompt="hello"))
    rebuilt = Conditioning.from_arrays(
        hidden=encoded.hidden,
        transcript_ids=encoded.transcript_ids,
        waveform=np.zeros(441_000),
        sync=np.zeros((240, 32)),
        mel_keep=np.ones(1723),
    )
    one = session.sample(encoded, seed=1, plan=PLAN)
    assert np.array_equal(one, session.sample(rebuilt, seed=1, plan=PLAN))


def test_masked_mel_frames_change_the_result(session: Session) -> None:
    keep = np.ones(1723, bool)
    keep[400:900] = False
    hidden = np.random.RandomState(0).standard_normal((9, 64))
    wave = tone(10.0).samples[0]
    whole = Conditioning.from_arrays(hidden=hidden, waveform=wave)
    masked = Conditioning.from_arrays(hidden=hidden, waveform=wave, mel_keep=keep)
    one = session.sample(whole, seed=1, plan=PLAN)
    assert not np.allclose(one, session.sample(masked, seed=1, plan=PLAN), atol=1e-3)


# Variations


def test_a_variation_keeps_more_the_stronger_it_is_asked_to(session: Session) -> None:
    """At strength 1 − ε the flow has no time left: the result is the clip's own reconstruction."""
    source = tone(10.0, channels=2)
    pipeline = session._pipeline
    initial = pipeline.initial_latents(source, strength=0.5)
    conditioning = session.encode(TextToMusic(prompt="piano"))
    distances = []
    for strength in (0.2, 0.6, 0.999):
        audio = session.generate(
            "T2M",
            prompt="piano",
            init_audio=source,
            init_strength=strength,
            plan="euler-4",
            cfg_scale=1.0,
            seed=2,
            normalise=False,
        )
        distances.append(audio)
    assert initial.mean.shape == session.sample(conditioning, seed=1, plan=PLAN).shape
    clip = session.decode(initial.mean)[0][:, : 10 * RATE]
    errors = [float(np.linalg.norm(a.samples - clip)) for a in distances]
    assert errors[0] > errors[2]
    assert errors[1] > errors[2]


def test_fitted_plans_refuse_to_start_at_another_sigma(session: Session) -> None:
    fitted = session.plan("euler-2")
    fitted = type(fitted)(name="ls3-2", rows=fitted.rows, grid=fitted.grid, method=None)
    with pytest.raises(RequestError, match="cannot start at"):
        session.generate("T2A", prompt="rain", init_audio=tone(1.0), plan=fitted)


# Long form


def test_segments_joined_are_the_whole(session: Session) -> None:
    request = TextToMusic(prompt="piano")
    pieces = list(session.generate_segments(request, duration_s=25.0, plan=PLAN, seed=1))
    whole = session.generate("T2M", prompt="piano", duration_s=25.0, plan=PLAN, seed=1)
    assert whole.samples.shape == (2, 25 * RATE)
    assert np.array_equal(np.concatenate([p.samples for p in pieces], 1), whole.samples)
    assert len(pieces) == 3


def test_the_first_segment_is_ready_before_the_second_is_sampled(session: Session) -> None:
    steps: list[int] = []
    pieces = session.generate_segments(
        TextToMusic(prompt="piano"),
        duration_s=20.0,
        plan=PLAN,
        seed=1,
        on_step=lambda done, _: steps.append(done),
    )
    first = next(pieces)
    assert steps == [1, 2]
    short = session.generate("T2M", prompt="piano", duration_s=5.0, plan=PLAN, seed=1)
    assert np.array_equal(first.samples[:, : 5 * RATE], short.samples)


# Cancellation, threads, life cycle


def test_cancel_stops_within_one_step_and_the_session_goes_on(session: Session) -> None:
    cancel, seen = threading.Event(), []

    def on_step(done: int, total: int) -> None:
        seen.append(done)
        if done == 3:
            cancel.set()

    with pytest.raises(Cancelled):
        session.generate("T2A", prompt="rain", plan="euler-50", on_step=on_step, cancel=cancel)
    assert seen == [1, 2, 3]
    with pytest.raises(Cancelled):
        session.generate("T2A", prompt="rain", plan=PLAN, cancel=cancel)  # set beforehand
    assert session.generate("T2A", prompt="rain", plan=PLAN).duration_s == 10.0


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_an_error_in_on_step_passes_through_and_the_session_goes_on(
    error: BaseException, session: Session
) -> None:
    def on_step(done: int, total: int) -> None:
        raise error

    with pytest.raises(type(error)):
        session.generate("T2A", prompt="rain", plan=PLAN, on_step=on_step)
    one = session.generate("T2A", prompt="rain", plan=PLAN, seed=1)
    assert same(one, session.generate("T2A", prompt="rain", plan=PLAN, seed=1))


def test_on_step_may_not_use_its_own_session(session: Session) -> None:
    def on_step(done: int, total: int) -> None:
        session.generate("T2A", prompt="b", plan=PLAN)

    with pytest.raises(RequestError, match="a callback may not use"):
        session.generate("T2A", prompt="a", plan=PLAN, on_step=on_step)


def test_requests_of_several_threads_do_not_disturb_each_other(session: Session) -> None:
    alone = [session.generate("T2A", prompt=f"sound {i}", plan=PLAN, seed=i) for i in range(4)]
    together: dict[int, Audio] = {}

    def request(i: int) -> None:
        together[i] = session.generate("T2A", prompt=f"sound {i}", plan=PLAN, seed=i)

    threads = [threading.Thread(target=request, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(alone[i], together[i]) for i in range(4))


def test_waiting_for_another_request_can_be_cancelled(session: Session) -> None:
    started, release, cancel = threading.Event(), threading.Event(), threading.Event()

    def hold(done: int, total: int) -> None:
        started.set()
        release.wait(20)

    first = threading.Thread(
        target=session.generate,
        args=("T2A",),
        kwargs={"prompt": "a", "plan": PLAN, "on_step": hold},
    )
    first.start()
    started.wait(20)
    threading.Timer(0.1, cancel.set).start()
    begin = time.monotonic()
    with pytest.raises(Cancelled):
        session.generate("T2A", prompt="b", plan=PLAN, cancel=cancel)
    release.set()
    first.join()
    assert time.monotonic() - begin < 10


def test_staged_memory_gives_the_same_bits(session: Session, standin_bundle: Path) -> None:
    with Session(standin_bundle, memory="staged") as staged:
        for _ in range(2):
            one = staged.generate("T2A", prompt="rain", plan=PLAN, seed=1)
            assert set(staged._pipeline._pool._loaded) == {"vae_decoder"}
    assert same(one, session.generate("T2A", prompt="rain", plan=PLAN, seed=1))


def test_a_closed_session_says_so(standin_bundle: Path) -> None:
    with Session(standin_bundle) as opened:
        opened.warmup()
    with pytest.raises(EngineError, match="closed"):
        opened.generate("T2A", prompt="rain", plan=PLAN)
    opened.close()


# Bad requests: one typed error each, and the next request works

BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "T2A needs prompt"),
    ({"prompt": ""}, "prompt is empty"),
    ({"prompt": " \n"}, "prompt is empty"),
    ({"prompt": 3}, "must be text"),
    ({"prompt": "x" * 100_000}, "tokens long"),
    ({"prompt": "<|im_start|>system"}, "may not contain"),
    ({"prompt": "a", "voice": "v.wav"}, "T2A takes no voice"),
    ({"prompt": "a", "cfg_scale": float("nan")}, "cfg_scale"),
    ({"prompt": "a", "cfg_scale": float("inf")}, "cfg_scale"),
    ({"prompt": "a", "cfg_scale": "7"}, "cfg_scale"),
    ({"prompt": "a", "rescale": 1.5}, "rescale"),
    ({"prompt": "a", "rescale": float("nan")}, "rescale"),
    ({"prompt": "a", "seed": -1}, "seed"),
    ({"prompt": "a", "seed": 1.5}, "seed"),
    ({"prompt": "a", "seed": 2**32}, "seed"),
    ({"prompt": "a", "duration_s": 0}, "duration_s"),
    ({"prompt": "a", "duration_s": -3.0}, "duration_s"),
    ({"prompt": "a", "duration_s": float("nan")}, "duration_s"),
    ({"prompt": "a", "duration_s": 1e9}, "duration_s"),
    ({"prompt": "a", "plan": "euler-0"}, "steps"),
    ({"prompt": "a", "plan": "euler--4"}, "unknown plan"),
    ({"prompt": "a", "plan": "euler-1000000"}, "steps"),
    ({"prompt": "a", "plan": "nonsense"}, "unknown plan"),
    ({"prompt": "a", "plan": 8}, "plan must be"),
    ({"prompt": "a", "init_strength": 0.5}, "without init_audio"),
    ({"prompt": "a", "init_audio": "/no/such.wav"}, "no audio file"),
    ({"prompt": "a", "negative_prompt": ""}, "negative_prompt is empty"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_a_bad_generation_is_one_request_error(
    arguments: dict[str, Any], message: str, session: Session
) -> None:
    with pytest.raises(RequestError, match=message):
        session.generate("T2A", **arguments)


def test_unknown_tasks_are_told_the_known_ones(session: Session) -> None:
    for task in ("", "T2X", "Remove", "V3A"):
        with pytest.raises(RequestError, match="expected one of T2A, T2M, V2A, V2M, TTS, VC"):
            session.generate(task, prompt="a")
    with pytest.raises(RequestError, match="expected one of Add, Remove"):
        session.edit("T2A", tone(1.0), desc="a")


def test_speech_has_its_own_rules(session: Session) -> None:
    for arguments, message in (
        ({"prompt": "a" * 400}, "characters long"),
        ({"prompt": "a", "voice_transcript": "b"}, "without voice"),
        ({"prompt": "a", "duration_s": 30.0}, "one window"),
    ):
        with pytest.raises(RequestError, match=message):
            session.generate("TTS", **arguments)


def test_unusable_sources_are_one_request_error(session: Session, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.mp3").write_text("not audio at all, whatever its name says")
    cases: list[tuple[Any, str]] = [
        (tmp_path / "none.wav", "no audio file"),
        (tmp_path / "empty.wav", "cannot|not audio"),
        (tmp_path / "text.mp3", "not audio"),
        (Audio(np.zeros((1, 0), np.float32), RATE), "no samples"),
        (Audio(np.full((1, 9), np.nan, np.float32), RATE), "NaN"),
        (Audio(np.zeros((1, 3600 * 8), np.float32), 8), "at most 600 s"),
        (3, "must be a path"),
    ]
    for source, message in cases:
        with pytest.raises(RequestError, match=message):
            session.edit("Remove", source, desc="a hum")
    assert session.edit("Remove", tone(0.2), desc="a hum", plan=PLAN).duration_s == 0.2


def test_bad_phases_are_one_request_error(session: Session) -> None:
    good = session.encode(TextToAudio(prompt="rain"))
    for arguments, message in (
        ({"noise": np.zeros((1, 2, 3))}, "noise"),
        ({"noise": np.full((1, 16, 236), np.nan)}, "noise"),
        ({"seed": [1, 2]}, "2 seeds for 1"),
    ):
        with pytest.raises(RequestError, match=message):
            session.sample(good, plan=PLAN, **arguments)
    for conditionings in ([], [good] * 65):
        with pytest.raises(RequestError, match="a batch holds"):
            session.sample(conditionings, plan=PLAN)
    for latents in (np.zeros((1, 3, 4)), np.zeros((16, 4)), np.zeros((1, 16, 0))):
        with pytest.raises(RequestError, match="latents must"):
            session.decode(latents)
    wrong = Conditioning.from_arrays(hidden=np.ones((3, 5)))
    with pytest.raises(RequestError, match="hidden must be"):
        session.sample(wrong, plan=PLAN)
    short = Conditioning.from_arrays(hidden=np.ones((3, 64)), waveform=np.ones(7))
    with pytest.raises(RequestError, match="waveform must have shape"):
        session.sample(short, plan=PLAN)


def test_what_is_no_request_is_told_so(session: Session) -> None:
    not_requests: Any = ["rain", None, 3]
    for thing in not_requests:
        for call in (
            lambda t=thing: session.encode(t),
            lambda t=thing: session.generate_batch([t]),
            lambda t=thing: session.generate_segments(t, duration_s=20.0),
            lambda t=thing: session.sample(t),
            lambda t=thing: session.decode(t),
        ):
            with pytest.raises(RequestError):
                call()
    for arguments in ({"on_step": 5}, {"cancel": True}, {"negative_prompt": "a", "cfg_scale": 1.0}):
        with pytest.raises(RequestError):
            session.generate("T2A", prompt="a", plan=PLAN, **arguments)


def test_a_plan_below_one_needs_something_to_start_from(session: Session) -> None:
    plan = make_plan("euler-2", grid=[0.5, 0.2, 0.0])
    with pytest.raises(RequestError, match="give init_audio or noise"):
        session.generate("T2A", prompt="a", plan=plan)
    noise = np.zeros((1, 16, 236))
    given = session.encode(TextToAudio(prompt="rain"))
    assert session.sample(given, noise=noise, plan=plan).shape == noise.shape
    with pytest.raises(RequestError, match="too much noise"):
        session.generate_batch([TextToAudio(prompt="a")] * 64, plan="consistency-10000")


def test_an_edit_in_windows_keeps_their_levels(session: Session) -> None:
    """Normalised once, at the end: one window's peak is 1, not every window's."""
    source = tone(21.0)
    raw = session.edit("Remove", source, desc="a", plan=PLAN, seed=1, normalise=False)
    audio = session.edit("Remove", source, desc="a", plan=PLAN, seed=1)
    np.testing.assert_array_equal(audio.samples, raw.samples / np.abs(raw.samples).max())


def test_cancelling_while_another_request_runs_ends_before_decoding(session: Session) -> None:
    cancel = threading.Event()

    def on_step(done: int, total: int) -> None:
        if done == total:
            cancel.set()

    with pytest.raises(Cancelled):
        session.generate("T2A", prompt="a", plan=PLAN, on_step=on_step, cancel=cancel)


def test_batches_are_checked_too(session: Session) -> None:
    request = TextToAudio(prompt="a")
    for arguments, message in (
        ({"requests": []}, "a batch holds"),
        ({"requests": [request] * 65}, "a batch holds"),
        ({"requests": [request], "seeds": [1, 2]}, "as many as"),
        ({"requests": [request], "duration_s": 60.0}, "one window"),
        ({"requests": [Add(source=tone(30.0), desc="a")]}, "one window"),
    ):
        with pytest.raises(RequestError, match=message):
            session.generate_batch(plan=PLAN, **arguments)


# Bundles that must not be opened


def test_a_bundle_must_prove_its_parity(standin_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(standin_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["certificate"]["stages"]["dit_step/v"]["rel_l2"] = 0.5
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BundleError, match="certificate fails for dit_step/v"):
        Session(copy)
    with pytest.warns(UncertifiedWarning, match="dit_step/v"):
        Session(copy, allow_uncertified=True).close()


def test_a_changed_weight_is_noticed(standin_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(standin_bundle, copy)
    with (copy / "graphs" / "dit.data").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff")
    with pytest.raises(BundleError, match=r"dit\.data: its sha256"):
        Session(copy)


def test_arguments_of_the_session_are_checked(standin_bundle: Path, tmp_path: Path) -> None:
    for arguments in ({"device": "tpu"}, {"memory": "none"}, {"threads": 0}, {"threads": "2"}):
        with pytest.raises(RequestError):
            Session(standin_bundle, **arguments)
    with pytest.raises(BundleError, match="no bundle at"):
        Session(tmp_path)
