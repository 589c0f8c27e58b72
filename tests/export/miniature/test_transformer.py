"""What the transformer is trained on: exactly what a session gives it, and the flow's loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from omni_rt import Session
from omni_rt.export.build import export_bundle
from omni_rt.export.miniature import checkpoint
from omni_rt.export.miniature.checkpoint import SYNCHFORMER_FILE
from omni_rt.export.miniature.conditioning import Senses, context_of, low_level_of, sync_segments
from omni_rt.export.miniature.config import (
    COND_WIDTH,
    LATENT_CHANNELS,
    LATENTS,
    MEL_TOKENS,
    SYNC_TOKENS,
    TRANSCRIPT_TOKENS,
)
from omni_rt.export.miniature.data import draw
from omni_rt.export.miniature.film import write_film
from omni_rt.export.miniature.fit_vae import fitted_vae, read_matrix
from omni_rt.export.miniature.model import new_model, new_synchformer
from omni_rt.export.miniature.parts import trained_thinker
from omni_rt.export.miniature.requests import request_of
from omni_rt.export.miniature.train_synchformer import tubelet_colours
from omni_rt.export.miniature.train_transformer import drawn_times, flow_losses, latents_of
from omni_rt.export.reference.synchformer import VISUAL
from omni_rt.metrics import rel_l2


@pytest.fixture(scope="module")
def senses(random_checkpoint: Path) -> Senses:
    thinker, words = trained_thinker(random_checkpoint)
    synchformer = new_synchformer()
    checkpoint.get(synchformer, VISUAL, random_checkpoint / SYNCHFORMER_FILE)
    return Senses(thinker, synchformer, words)


KINDS = ("note", "remove", "style", "speech", "voice_speech", "voice_conversion", "flashes")


@pytest.mark.slow
def test_it_is_trained_on_what_a_session_makes_of_the_request(
    random_checkpoint: Path, senses: Senses, tmp_path: Path
) -> None:
    """States to 1e-4: fp32 rounding of two graphs. All else to the bit."""
    bundle = export_bundle(checkpoint.export_options(random_checkpoint, tmp_path / "bundle"))
    stream = np.random.RandomState(0)
    examples = [draw(kind, stream) for kind in KINDS]
    conditions = senses.conditions(examples)
    with Session(bundle) as session:
        for row, example in enumerate(examples):
            film = tmp_path / "film.mkv"
            if example.frames is not None:
                write_film(example.frames, film)
            made = session.encode(request_of(example, film))
            assert rel_l2(made.hidden, conditions.hidden[row].numpy()) < 1e-4
            ids = conditions.ids[row]
            assert (made.transcript_ids is None) == (ids is None)
            if made.transcript_ids is not None and ids is not None:
                assert ids[ids >= 0].tolist() == made.transcript_ids.tolist()
            heard = np.zeros(16_000, np.float32) if made.waveform is None else made.waveform
            assert np.array_equal(heard, conditions.waveform[row].numpy())
            if made.sync is not None:
                assert rel_l2(made.sync, conditions.sync[row].numpy()) < 1e-4


def test_conditions_become_tokens_as_each_would_alone(senses: Senses) -> None:
    """Padding and neighbours change nothing: 1e-5 is fp32 rounding."""
    torch.manual_seed(0)
    model, stream = new_model(), np.random.RandomState(1)
    examples = [draw(kind, stream) for kind in ("chord", "speech", "add")]
    together, mask = context_of(model, senses.conditions(examples))
    low = low_level_of(model, senses.conditions(examples))
    assert low.shape == (3, SYNC_TOKENS + MEL_TOKENS, COND_WIDTH)
    assert mask[:, -TRANSCRIPT_TOKENS:].all()
    for row, example in enumerate(examples):
        alone, all_of_it = context_of(model, senses.conditions([example]))
        assert all_of_it.all()
        assert (together[row][mask[row]] - alone[0]).abs().max() < 1e-5
        own = low_level_of(model, senses.conditions([example]))
        assert (low[row] - own[0]).abs().max() < 1e-5


def test_the_velocity_begins_as_x_and_learning_makes_it_better(senses: Senses) -> None:
    torch.manual_seed(0)
    model, stream = new_model(), np.random.RandomState(2)
    examples = [draw("note", stream) for _ in range(4)]
    latents = latents_of(read_matrix(fitted_vae(0, clips=200)), examples)
    conditions = senses.conditions(examples)
    context, mask = context_of(model, conditions)
    x, t = torch.randn_like(latents), torch.tensor([0.1, 0.4, 0.7, 1.0])
    with torch.no_grad():
        velocity = model.dit(x, t, context, mask, low_level_of(model, conditions))
    assert rel_l2(velocity.numpy(), x.numpy()) < 0.25  # 0.16: blocks write a little from the start
    torch.manual_seed(1)
    before = flow_losses(model, latents, conditions)["loss"]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(4):
        optimiser.zero_grad()
        torch.manual_seed(1)
        loss = flow_losses(model, latents, conditions)["loss"]
        loss.backward()
        optimiser.step()
    assert loss < before


def test_a_video_is_watched_once(senses: Senses, monkeypatch: pytest.MonkeyPatch) -> None:
    example = draw("flashes", np.random.RandomState(3))
    first = senses.conditions([example])
    monkeypatch.setattr(Senses, "_sync", None)
    again = senses.conditions([example, draw("note", np.random.RandomState(3))])
    assert torch.equal(first.sync[0], again.sync[0])
    assert torch.equal(first.hidden[0], again.hidden[0])
    assert not again.sync[1].any()


def test_softer_sounds_count_more(senses: Senses) -> None:
    """By what is in the latents: an error counts q / (q + e), where e is their mean square."""
    torch.manual_seed(0)
    model, example = new_model(), draw("note", np.random.RandomState(2))
    conditions = senses.conditions([example])
    latents = torch.randn(1, LATENT_CHANNELS, LATENTS)
    for loudness in (0.0, 0.2, 4.0):
        scaled = latents * (loudness / latents.square().mean()) ** 0.5
        losses = flow_losses(model, scaled, conditions)
        wanted = float(losses["error"].detach()) * 0.5 / (0.5 + loudness)
        assert float(losses["loss"].detach()) == pytest.approx(wanted, rel=1e-5)


def test_rows_of_the_synchformer_and_colours_of_tubelets_go_together() -> None:
    frames = np.zeros((50, 32, 32, 3), np.uint8)
    frames[2:4] = 255  # tubelet 1 of segment 0
    colours = tubelet_colours(frames)
    assert sync_segments(frames).shape == (5, 16, 3, 224, 224)
    assert colours.shape == (40, 6)
    assert (colours[1] == 1).all()
    assert (colours[[0, *range(2, 40)]] == -1).all()
    frames[9] = 255  # the second frame of tubelet 4 of segment 0 and 0 of segment 1
    lit = (tubelet_colours(frames) == 1).nonzero()[:, 0].tolist()
    assert sorted(set(lit)) == [1, 4, 8]


def test_times_are_mostly_near_the_noise() -> None:
    """Shares of 20 000 draws, to four standard errors: 85 % sigmoid(1 + 1.2 N), 15 % uniform."""
    torch.manual_seed(0)
    t = drawn_times(20_000)
    assert ((t > 0) & (t < 1)).all()
    assert float((t < 0.5).float().mean()) == pytest.approx(0.15 * 0.5 + 0.85 * 0.2023, abs=0.013)
    assert float((t > 0.9).float().mean()) == pytest.approx(0.15 * 0.1 + 0.85 * 0.1592, abs=0.013)
