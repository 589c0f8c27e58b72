"""The miniature's thinker: its words, its batches, and that a batch is what the runtime runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from omni_rt.export.miniature.data import KINDS, draw, vocabulary
from omni_rt.export.miniature.text import TEMPLATES, write_tokenizer
from omni_rt.export.miniature.thinker import collated, embedded, prompt_text, thinker_losses
from omni_rt.export.miniature.train_thinker import ThinkerTraining, drawn
from omni_rt.export.reference.thinker_files import thinker_shapes
from omni_rt.preprocess.chat import TEMPLATES as NEEDED
from omni_rt.preprocess.chat import Tokenizer


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> ThinkerTraining:
    return ThinkerTraining(tmp_path_factory.mktemp("thinker"), steps=2)


def test_every_template_of_the_runtime_is_there() -> None:
    assert TEMPLATES.keys() == NEEDED.keys()


def test_any_text_can_be_written_and_read_back(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    for text in (*vocabulary(), "a triangle tone at f 3.", "¿qué suena?", "雨 and rain"):
        assert tokenizer.decode(tokenizer.encode(text).tolist()) == text
    tokens = [len(tokenizer.encode(" " + word)) for word in vocabulary()]
    assert np.mean(tokens) < 1.3


def test_the_tokenizer_is_the_same_every_time(tmp_path: Path) -> None:
    one, two = (write_tokenizer(tmp_path / name) for name in ("one.json", "two.json"))
    assert one == two
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_its_parameters_are_the_checkpoints(training: ThinkerTraining) -> None:
    """But for the head, which is the embedding, and a table that is never used."""
    official = thinker_shapes(training.words.sizes)
    own = training.training.module.state_dict()
    assert own.keys() == official.keys() - {"audio_tower.audio_bos_eos_token.weight"}
    assert training.words.sizes.tied


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_laid_out(kind: str, training: ThinkerTraining) -> None:
    """As many placeholders as media, whatever the task."""
    example = draw(kind, np.random.RandomState(0))
    system, _ = prompt_text(example)
    assert system in TEMPLATES.values()
    batch = collated([example], training.words)
    assert (batch.ids == training.words.special.audio).any() == (batch.mel is not None)
    assert (batch.ids == training.words.special.video).any() == (example.frames is not None)


def test_a_prompt_is_worded_as_the_runtime_words_it() -> None:
    stream = np.random.RandomState(0)
    example = draw("flashes", stream)
    assert prompt_text(example)[1] == f"{example.prompt}\n<|vision_bos|><|VIDEO|><|vision_eos|>"
    removal = draw("remove", stream)
    assert prompt_text(removal) == (TEMPLATES["SYSTEM_EDITING"], f"remove {removal.desc}")
    assert prompt_text(draw("speech", stream)) == (TEMPLATES["SYSTEM_TTS"], "")


def test_answers_are_what_is_learnt_of_a_question(training: ThinkerTraining) -> None:
    example = draw("ask_note", np.random.RandomState(0))
    batch = collated([example], training.words)
    learnt = batch.wanted[0][batch.wanted[0] != -100].tolist()
    stop = training.words.special.stop[0]
    assert learnt[-1] == stop
    assert training.words.tokenizer.decode(learnt) == example.answer
    # each is wanted where the token before it is
    at = int((batch.wanted[0] != -100).nonzero()[0, 0])
    assert batch.ids[0, at + 1 : at + 1 + len(learnt)].tolist() == learnt


def test_a_batch_is_the_same_as_its_examples_alone(training: ThinkerTraining) -> None:
    """Padding and neighbours change nothing: 1e-5 is fp32 rounding of three layers."""
    thinker, stream = training.training.module.eval(), np.random.RandomState(1)
    examples = [draw(kind, stream) for kind in ("ask_words", "ask_colour", "note", "ask_way")]

    def states(chosen: list) -> tuple[torch.Tensor, torch.Tensor]:
        batch = collated(chosen, training.words)
        with torch.no_grad():
            embeds = embedded(thinker, batch, training.words.special)  # type: ignore[arg-type]
            found = thinker.model.with_cache(embeds, batch.positions, batch.mask, None)  # type: ignore[union-attr,operator]
        return found[0], batch.mask

    together, mask = states(examples)
    for row, example in enumerate(examples):
        alone, _ = states([example])
        assert (together[row][mask[row] == 1] - alone[0]).abs().max() < 1e-5


def test_a_step_lowers_the_loss(training: ThinkerTraining) -> None:
    batch = collated(drawn(np.random.RandomState(3), 0.0), training.words)
    thinker = training.training.module.train()
    optimiser = torch.optim.SGD(thinker.parameters(), lr=0.1)
    before = thinker_losses(thinker, batch, training.words.special)["loss"]  # type: ignore[arg-type]
    before.backward()
    optimiser.step()
    after = thinker_losses(thinker, batch, training.words.special)["loss"]  # type: ignore[arg-type]
    assert after < before


def test_greedy_answers_are_the_likeliest_tokens(training: ThinkerTraining) -> None:
    """The cached, padded batch says what re-running each example alone says."""
    from omni_rt.export.miniature.thinker import answers

    thinker, stream = training.training.module.eval(), np.random.RandomState(2)
    examples = [draw(kind, stream) for kind in ("ask_count", "ask_colour", "ask_words")]
    together = answers(thinker, examples, training.words, most=5)  # type: ignore[arg-type]
    alone = [
        answers(thinker, [example], training.words, most=5)[0]  # type: ignore[arg-type]
        for example in examples
    ]
    assert together == alone
