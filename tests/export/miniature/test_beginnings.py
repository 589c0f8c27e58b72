"""What the transformer begins with: each latent hears and sees its own moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from omni_rt.contract import sync_starts
from omni_rt.errors import ExportError
from omni_rt.export.miniature.config import COND_WIDTH, LATENT_CHANNELS, LATENTS
from omni_rt.export.miniature.data import video
from omni_rt.export.miniature.in_step import looking_back
from omni_rt.export.miniature.model import new_model
from omni_rt.export.miniature.parts import Synchformer, Transformer
from omni_rt.export.reference.dit import RotaryAngles, SelfAttention, rotate, split_heads
from omni_rt.export.reference.model import AudioOmni

ROWS = 8


@pytest.fixture(scope="module")
def model() -> AudioOmni:
    torch.manual_seed(0)
    return new_model()


def attention(model: AudioOmni, block: int) -> Tensor:
    """How the latents of a block attend [ROWS, heads, LATENTS, tokens] to tokens of silence."""
    found: list[Tensor] = []

    def look(module: torch.nn.Module, given: tuple[Tensor, Tensor, int]) -> None:
        assert isinstance(module, SelfAttention)
        x, angles, _ = given
        q, k, _ = (split_heads(part, module.heads) for part in module.to_qkv(x).chunk(3, dim=-1))
        logits = rotate(q, angles) @ rotate(k, angles).mT / q.shape[-1] ** 0.5
        found.append(logits.softmax(-1)[:, :, -LATENTS:])

    hook = model.dit.transformer.layers[block].self_attn.register_forward_pre_hook(look)
    torch.manual_seed(1)
    seen = model.sync_feature(torch.zeros(ROWS, 40, 32))
    heard = model.audio_input_prompt(torch.zeros(ROWS, 16_000))
    with torch.no_grad():
        model.dit(
            torch.randn(ROWS, LATENT_CHANNELS, LATENTS),
            torch.rand(ROWS),
            torch.zeros(ROWS, 4, COND_WIDTH),
            torch.ones(ROWS, 4, dtype=torch.bool),
            torch.cat([seen, heard], dim=1),
        )
    hook.remove()
    return found[0]


@pytest.mark.parametrize("distance", [2 * LATENTS, LATENTS])
def test_a_query_and_a_key_that_look_back_agree_best_at_their_distance(distance: int) -> None:
    """Wherever they are; most of a softmax over 96 tokens falls on the right one."""
    rotary = RotaryAngles(32)
    query, key = looking_back(distance, 64, rotary.inv_freq)
    angles = rotary(3 * LATENTS)
    turned = [rotate(v.expand(1, 1, len(angles), -1), angles)[0, 0] for v in (query, key)]
    weights = (turned[0] @ turned[1].T / 64**0.5).softmax(-1)
    for at in range(distance, 3 * LATENTS):
        assert int(weights[at].argmax()) == at - distance
        assert weights[at, at - distance] > 0.5


@pytest.mark.parametrize(("head", "distance"), [(0, 2 * LATENTS), (1, LATENTS)])
def test_two_heads_look_at_the_tokens_of_their_own_moment(
    model: AudioOmni, head: int, distance: int
) -> None:
    """Within two tokens of it they have .3 to .5 of their attention; 5 of 96 tokens are .05.

    What differs from token to token in what the first block writes is in the way.
    """
    latents = torch.arange(LATENTS)
    own = latents + 2 * LATENTS - distance
    near = sum(
        attention(model, 1)[:, head, latents, (own + off).clamp(0, 3 * LATENTS - 1)]
        for off in (-2, -1, 0, 1, 2)
    )
    assert isinstance(near, Tensor)
    assert float(near.mean()) > 0.2


def test_tokens_of_the_video_begin_as_the_rows_around_their_moment(model: AudioOmni) -> None:
    weight = model.sync_feature.dim_project.weight
    assert torch.allclose(weight.sum(1), torch.ones(LATENTS), atol=1e-5)
    rows_s = np.array(
        [(start + 2 * i + 1) / 25 for start in sync_starts(video.FRAMES) for i in range(8)]
    )
    seen_s = weight.detach().numpy() @ rows_s
    latents_s = (np.arange(LATENTS) + 0.5) * 0.064
    inside = latents_s < rows_s.max()  # the last frames are in no segment
    assert np.abs(seen_s - latents_s)[inside].max() < 0.064
    assert (model.sync_feature.dim_project.bias.diff() > 0).all()  # no two moments are alike


def test_a_run_can_begin_with_a_checkpoint(tmp_path: Path, random_checkpoint: Path) -> None:
    """Average and module alike; what else is in the file is left alone."""
    run = Transformer(tmp_path, random_checkpoint, steps=10, seed=1)
    run.begin_with(random_checkpoint, lambda _: None)
    torch.manual_seed(0)
    stored = {name: value.bfloat16().float() for name, value in new_model().state_dict().items()}
    for module in (run.training.module, run.training.average):
        for name, value in module.state_dict().items():
            if "inv_freq" not in name:
                assert torch.equal(value, stored[name]), name
    assert all(parameter.requires_grad for parameter in run.training.module.parameters())
    assert run.step == 0


def test_what_a_run_began_with_is_in_its_header_even_if_it_was_interrupted(
    tmp_path: Path, random_checkpoint: Path
) -> None:
    first = Transformer(tmp_path, random_checkpoint, steps=10, seed=1)
    first.begin_with(random_checkpoint, lambda _: None)
    first.training.save()
    run = Transformer(tmp_path, random_checkpoint, steps=10, seed=1)
    assert run.before == ""
    assert run.resume()
    assert run.before == "how it was made (1.50 h)"


def test_only_what_fits_can_be_begun_with(tmp_path: Path, random_checkpoint: Path) -> None:
    run = Transformer(tmp_path, random_checkpoint, steps=10, seed=1)
    with pytest.raises(ExportError, match="no checkpoint"):
        run.begin_with(tmp_path / "nowhere", lambda _: None)
    with pytest.raises(ExportError, match="only the transformer"):
        Synchformer(tmp_path, random_checkpoint, steps=1, seed=0).begin_with(
            random_checkpoint, lambda _: None
        )
