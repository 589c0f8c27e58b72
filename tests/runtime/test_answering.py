"""The laws of answering: choosing tokens, remembering them, their text, and what is refused."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from omni_rt import answering
from omni_rt.answering import Answerer, KeyValueCache, TokenChoice
from omni_rt.errors import Cancelled, EngineError, RequestError
from omni_rt.feature_cache import FeatureCache
from omni_rt.manifest import SpecialIds, ThinkerDims
from omni_rt.preprocess.chat import Tokenizer
from omni_rt.preprocess.frames import understanding_count
from omni_rt.senses import Heard, Seen, Senses
from omni_rt.thinker import Prompt, Thinker
from omni_rt.understanding import (
    MAX_NEW_TOKENS,
    Answering,
    Turn,
    VideoBudget,
    checked_history,
    conversation_text,
    text_pieces,
)

VOCABULARY, STOP = 97, 96
SPECIAL = SpecialIds(
    audio=90, image=91, video=92, audio_bos=93, audio_eos=94, vision_bos=95, vision_eos=89,
    stop=(STOP,),
)  # fmt: skip
THINKER = ThinkerDims(
    layers=2,
    kv_heads=1,
    head_width=1,
    vocabulary=VOCABULARY,
    max_positions=32_768,
    mel_bands=128,
    chunk_frames=200,
    patch_px=14,
    temporal_patch=2,
    merge=2,
    window_px=112,
)
BUNDLE: Any = SimpleNamespace(
    thinker_dims=THINKER,
    special_ids=SPECIAL,
    manifest=SimpleNamespace(dims=SimpleNamespace(hidden_width=1)),
)

LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=20).map(np.float32)
TEMPERATURES = st.floats(1e-3, 100)


def stream(seed: int = 0) -> np.random.RandomState:
    return np.random.RandomState(seed)


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    weights = np.exp((logits.astype(np.float64) - float(logits.max())) / temperature)
    return weights / weights.sum()


# ---- which token


@given(LOGITS, st.integers(0, 5), st.floats(0.01, 1), st.integers(0, 99))
def test_temperature_zero_takes_the_likeliest(
    logits: np.ndarray, top_k: int, top_p: float, seed: int
) -> None:
    choice = TokenChoice(top_k=top_k, top_p=top_p)
    assert choice.pick(logits, stream(seed)) == logits.argmax()


@given(LOGITS, TEMPERATURES, st.integers(0, 99))
def test_one_candidate_is_the_likeliest(logits: np.ndarray, temperature: float, seed: int) -> None:
    for narrow in (
        TokenChoice(temperature=temperature, top_k=1),
        TokenChoice(temperature=temperature, top_p=1e-9),
    ):
        assert narrow.pick(logits, stream(seed)) == logits.argmax()


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 1e-307, 5e-324])
@pytest.mark.filterwarnings("error")
def test_a_vanishing_temperature_takes_the_likeliest(temperature: float) -> None:
    logits = np.array([1.0, 30.0, 31.0, -30.0], np.float32)
    assert TokenChoice(temperature=temperature).pick(logits, stream()) == 2


@given(LOGITS, TEMPERATURES)
@settings(max_examples=30)
def test_tokens_come_as_often_as_they_are_likely(logits: np.ndarray, temperature: float) -> None:
    """Evenly spread numbers in [0, 1) in place of random ones: the shares are exact to one."""
    count = 400
    choice = TokenChoice(temperature=temperature)
    picked = [choice.pick(logits, always((i + 0.5) / count)) for i in range(count)]
    shares = np.bincount(picked, minlength=len(logits)) / count
    assert np.abs(shares - probabilities(logits, temperature)).max() <= 1 / count + 1e-9


def always(number: float) -> Any:
    return SimpleNamespace(random_sample=lambda: number)


@given(LOGITS, TEMPERATURES, st.integers(0, 20), st.floats(0.01, 1), st.floats(0, 1))
def test_nothing_unlikely_is_ever_picked(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float, drawn: float
) -> None:
    """Fewer than top_k are likelier, and together they are less likely than top_p."""
    choice = TokenChoice(temperature=temperature, top_k=top_k, top_p=top_p)
    picked = choice.pick(logits, always(min(drawn, math.nextafter(1, 0))))
    likely = probabilities(logits, temperature)
    candidates = np.sort(likely)[::-1][: top_k or None]
    likelier = candidates[candidates > likely[picked]]
    assert len(likelier) < (top_k or len(logits))
    assert likelier.sum() < top_p * candidates.sum() + 1e-9
    assert likely[picked] > 0 or top_p == 1


def test_top_p_is_of_what_top_k_leaves() -> None:
    """Of 0.4, 0.3, 0.2, 0.1 two are left, then 0.57 and 0.43: 0.5 of them is the first alone."""
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    drawn = [i / 50 for i in range(50)]
    for top_k, top_p, expected in ((2, 0.5, {0}), (2, 0.6, {0, 1}), (0, 0.5, {0, 1})):
        choice = TokenChoice(temperature=1.0, top_k=top_k, top_p=top_p)
        assert {choice.pick(logits, always(number)) for number in drawn} == expected


def test_a_seed_draws_the_same_tokens() -> None:
    logits = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    choice = TokenChoice(temperature=1.0)

    def drawn(seed: int) -> list[int]:
        numbers = stream(seed)
        return [choice.pick(logits, numbers) for _ in range(20)]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


# ---- what is remembered


def prompt_of(
    ids: Sequence[int], *, keys: Sequence[int] | None = None, first: int = 0, delta: int = 0
) -> Prompt:
    """Plain text, its positions counted from `first` on."""
    none = np.zeros((0, 1), np.float32)
    return Prompt(
        ids=np.array(ids, np.int64),
        positions=np.tile(first + np.arange(len(ids)), (3, 1)),
        delta=delta,
        keys=np.array(ids if keys is None else keys, np.int64),
        audio_rows=none,
        video_rows=none,
    )


def cache_of(prompt: Prompt) -> KeyValueCache:
    """A cache that has seen a prompt; its arrays hold 0, 1, 2 … along the tokens."""
    cache = KeyValueCache(BUNDLE)
    numbers = np.arange(prompt.length, dtype=np.float32).reshape(1, 1, -1, 1)
    present = {f"present_{p}_{i:02d}": numbers + 100 * i for i in range(2) for p in "kv"}
    cache.extend(present, prompt.keys, prompt.positions)
    return cache


IDS = st.lists(st.integers(0, 2), max_size=12)


@given(IDS, IDS)
def test_shared_is_the_longest_common_start(known: list[int], asked: list[int]) -> None:
    pairs = zip(known, asked, strict=False)
    expected = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(known), len(asked)))
    assert cache_of(prompt_of(known)).shared(prompt_of(asked)) == expected


@given(IDS, st.integers(0, 2), st.integers(0, 11))
def test_shared_stops_where_a_position_differs(ids: list[int], axis: int, at: int) -> None:
    assume(at < len(ids))
    cache, asked = cache_of(prompt_of(ids)), prompt_of(ids)
    asked.positions[axis, at] += 1
    assert cache.shared(asked) == at


def test_shared_stops_where_the_media_differ() -> None:
    """Ids of media tokens are alike; their keys are not."""
    ids = [1, SPECIAL.audio, SPECIAL.audio, 2]
    cache = cache_of(prompt_of(ids, keys=[1, -7, -7, 2]))
    assert cache.shared(prompt_of(ids, keys=[1, -7, -7, 2])) == 4
    assert cache.shared(prompt_of(ids, keys=[1, -8, -8, 2])) == 1


@given(IDS, st.integers(0, 15))
def test_cut_leaves_the_start(ids: list[int], length: int) -> None:
    cache, prompt = cache_of(prompt_of(ids)), prompt_of(ids)
    before = cache.inputs
    cache.cut(length)
    kept = min(length, len(ids))
    assert cache.length == kept
    assert cache.shared(prompt) == kept
    for name, array in cache.inputs.items():
        assert np.array_equal(array, before[name][:, :, :kept])


@given(IDS, IDS)
def test_extend_adds_at_the_end(ids: list[int], more: list[int]) -> None:
    whole, cache = prompt_of([*ids, *more]), cache_of(prompt_of(ids))
    wanted = cache_of(whole).inputs
    present = {name.replace("past", "present"): array for name, array in wanted.items()}
    cache.extend(present, whole.keys[len(ids) :], whole.positions[:, len(ids) :])
    assert cache.length == cache.shared(whole) == whole.length
    assert cache.inputs.keys() == wanted.keys()
    assert all(np.array_equal(cache.inputs[name], wanted[name]) for name in wanted)


def test_an_empty_cache_has_the_graphs_inputs() -> None:
    inputs = KeyValueCache(BUNDLE).inputs
    assert list(inputs) == ["past_k_00", "past_v_00", "past_k_01", "past_v_01"]
    assert {array.shape for array in inputs.values()} == {(1, 1, 0, 1)}


# ---- the loop, on a model that is a formula


class Formula:
    """Logits that depend on every token so far, and on its position; keeps them as its cache."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.positions: list[int] = []
        self.broken = False

    def get(self, stage: str) -> Any:
        return SimpleNamespace(run=self.embed if stage == "thinker_embed" else self.answer)

    def embed(self, *, input_ids: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"inputs_embeds": input_ids[..., None].astype(np.float32)}

    def answer(
        self,
        *,
        inputs_embeds: np.ndarray,
        position_ids: np.ndarray,
        attention_mask: np.ndarray,
        **past: np.ndarray,
    ) -> Mapping[str, np.ndarray]:
        self.lengths.append(inputs_embeds.shape[1])
        self.positions += position_ids[0, 0].tolist()
        new = {"k": inputs_embeds[:, None], "v": position_ids[0][:, None, :, None]}
        present = {
            name.replace("past", "present"): np.concatenate([array, new[name[5]]], axis=2)
            for name, array in past.items()
        }
        assert attention_mask.shape == (1, present["present_k_00"].shape[2])
        assert attention_mask.all()
        said = present["present_k_00"].ravel().astype(np.float64)
        where = present["present_v_00"].ravel().astype(np.float64)
        turn = float(np.sin(np.cumsum(np.sin(1 + said) + np.cos(where))).sum())
        logits = np.sin(np.arange(1, VOCABULARY + 1) * turn).astype(np.float32)[None, None]
        return {"logits": logits * (np.nan if self.broken else 1), **present}


class Talk:
    """An answerer on the formula."""

    def __init__(self) -> None:
        self.model: Any = Formula()
        thinker = Thinker(BUNDLE, self.model, FeatureCache())
        self.answerer = Answerer(BUNDLE, self.model, thinker)

    def says(self, prompt: Prompt, *, most: int = 12, **options: Any) -> list[int]:
        choice = options.pop("choice", TokenChoice())
        return list(self.answerer.tokens(prompt, choice, seed=1, most=most, **options))


PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=2, max_size=5)


@given(PROMPTS, st.booleans())
def test_what_is_cached_changes_no_answer(prompts: list[list[int]], draw: bool) -> None:
    """Prompts that start alike or not, one after the other, against a fresh start for each."""
    talk, choice = Talk(), TokenChoice(temperature=0.7 if draw else 0.0)
    for ids in prompts:
        prompt = prompt_of(ids)
        reused = talk.answerer.known(prompt)
        assert reused < prompt.length
        before = len(talk.model.positions)
        answer = talk.says(prompt, choice=choice)
        assert answer == Talk().says(prompt, choice=choice)
        run = talk.model.positions[before:]
        assert run[: len(ids) - reused] == list(range(reused, len(ids)))


def test_the_next_turn_runs_its_new_tokens_alone() -> None:
    talk, first = Talk(), list(range(20))
    answer = talk.says(prompt_of(first), most=4)
    longer = prompt_of([*first, *answer, 5, 6])
    assert talk.answerer.known(longer) == 23  # the last token of an answer is never run
    talk.model.lengths.clear()
    talk.says(longer, most=1)
    assert talk.model.lengths == [3]


def test_an_answer_given_up_harms_nothing() -> None:
    talk, prompt = Talk(), prompt_of([1, 2, 3])
    pieces = talk.answerer.tokens(prompt, TokenChoice(), seed=1, most=12)
    first = [next(pieces), next(pieces)]
    pieces.close()
    assert talk.says(prompt)[:2] == first
    assert talk.says(prompt) == Talk().says(prompt)


@pytest.mark.parametrize("slice_tokens", [1, 3, 256])
def test_long_prompts_run_in_slices(slice_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = prompt_of(np.arange(600) % 80)
    expected = Talk().says(prompt)
    monkeypatch.setattr(answering, "SLICE_TOKENS", slice_tokens)
    talk = Talk()
    talk.says(prompt, most=1)
    assert sum(talk.model.lengths) == 600
    assert max(talk.model.lengths) == slice_tokens
    assert Talk().says(prompt) == expected


def test_new_tokens_go_on_from_the_prompts_delta() -> None:
    talk, prompt = Talk(), prompt_of([1, 2, 3, 4], delta=-2)
    answer = talk.says(prompt, most=5)
    assert len(answer) == 5
    assert talk.model.positions == [0, 1, 2, 3, 2, 3, 4, 5]


def test_a_stop_token_ends_the_answer_and_is_not_in_it() -> None:
    stopping: Any = SimpleNamespace(pick=lambda logits, stream: next(tokens))
    talk, tokens = Talk(), iter([4, 5, STOP, 6])
    assert talk.says(prompt_of([1]), choice=stopping) == [4, 5]
    assert talk.answerer.finished
    tokens = iter([4, 5, STOP, 6])
    assert talk.says(prompt_of([1]), choice=stopping, most=2) == [4, 5]
    assert not talk.answerer.finished
    tokens = iter([STOP])
    assert talk.says(prompt_of([1]), choice=stopping) == []
    assert talk.answerer.finished


def test_no_more_tokens_are_run_than_are_said() -> None:
    for most in (1, 2, 7):
        talk = Talk()
        assert len(talk.says(prompt_of([1, 2]), most=most)) == most
        assert len(talk.model.lengths) == most


def test_logits_that_are_no_numbers_are_an_error_and_forgotten() -> None:
    talk, prompt = Talk(), prompt_of([1, 2, 3])
    expected = talk.says(prompt)
    talk.model.broken = True
    with pytest.raises(EngineError, match="NaN"):
        talk.says(prompt_of([1, 2, 4]))
    talk.model.broken = False
    assert talk.answerer.known(prompt) == 0
    assert talk.says(prompt) == expected


def test_cancelling_is_heard_between_tokens() -> None:
    talk, cancel = Talk(), threading.Event()
    pieces = talk.answerer.tokens(prompt_of([1]), TokenChoice(), seed=0, most=9, cancel=cancel)
    next(pieces)
    cancel.set()
    with pytest.raises(Cancelled):
        next(pieces)
    assert talk.answerer.known(prompt_of([1, 2])) == 0
    with pytest.raises(Cancelled):
        talk.says(prompt_of([1]), cancel=cancel)
    assert len(talk.model.lengths) == 1


# ---- tokens to text


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Single bytes, pairs of bytes that may cut characters in two, and a special token."""
    path = tmp_path_factory.mktemp("text") / "tokenizer.json"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = alphabet + [a + b for a in alphabet[100:130] for b in alphabet[100:130]]
    made = tokenizers.Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|im_end|>"])
    made.save(str(path))
    return Tokenizer(path)


@given(st.text())
def test_whole_characters_come_as_soon_as_their_bytes_are_there(
    tokenizer: Tokenizer, text: str
) -> None:
    assume("\N{REPLACEMENT CHARACTER}" not in text)
    ids = tokenizer.encode(text).tolist()
    pieces = list(text_pieces(tokenizer, ids))
    assert [count for count, _ in pieces] == list(range(1, len(ids) + 1))
    ends = np.cumsum([len(character.encode()) for character in text])
    expected = dict(zip(ends.tolist(), text, strict=True))
    assert [piece for _, piece in pieces] == [expected.get(n + 1, "") for n in range(len(ids))]


@given(st.lists(st.integers(0, 1156), max_size=30))
def test_pieces_of_any_tokens_are_the_whole_text(tokenizer: Tokenizer, ids: list[int]) -> None:
    pieces = list(text_pieces(tokenizer, iter(ids)))
    assert "".join(piece for _, piece in pieces) == tokenizer.decode(ids)
    assert [count for count, _ in pieces][-1:] == [len(ids)][: len(ids)]


def test_an_unfinished_character_is_said_at_the_end() -> None:
    made: Any = SimpleNamespace(decode=lambda ids: bytes(ids).decode(errors="replace"))
    pieces = list(text_pieces(made, [*b"a", 0xE2, 0x82]))
    assert pieces == [(1, "a"), (2, ""), (3, ""), (3, "\N{REPLACEMENT CHARACTER}")]


# ---- what may be asked


def test_histories_are_turns() -> None:
    turn = Turn(question="q", answer="")
    assert checked_history(None) == checked_history([]) == ()
    assert checked_history([turn, ("a?", "b"), ["c?", "d"]]) == (
        turn,
        Turn(question="a?", answer="b"),
        Turn(question="c?", answer="d"),
    )
    assert checked_history(t for t in [turn]) == (turn,)


@pytest.mark.parametrize(
    "history",
    [
        "text",
        b"text",
        3,
        [3],
        ["ab"],
        {"a?": "b"},
        [("a?",)],
        [("a?", "b", "c")],
        [("a?", "")],
        [(" ", "b")],
        [("a?", None)],
        [("a?<|im_end|>", "b")],
        [("a?", "<|AUDIO|>")],
        [("a?", "\ud800")],
    ],
)
def test_other_histories_are_refused(history: Any) -> None:
    with pytest.raises(RequestError, match="history"):
        checked_history(history)


def test_a_conversation_has_a_tag_per_item_in_its_turn() -> None:
    sound = Heard(embeds=np.zeros((1, 1), np.float32), key=b"")
    video = Seen(embeds=np.zeros((1, 1), np.float32), key=b"", grids=1, rows=1, columns=1)
    turns = [Turn(question="Who?", answer="Bees.", media=(sound,))]
    assert conversation_text("System.", turns, "And?", [video, sound]) == (
        "<|im_start|>system\nSystem.<|im_end|>\n"
        "<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>Who?<|im_end|>\n"
        "<|im_start|>assistant\nBees.<|im_end|>\n"
        "<|im_start|>user\n<|vision_bos|><|VIDEO|><|vision_eos|>"
        "<|audio_bos|><|AUDIO|><|audio_eos|>And?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("options", "name"),
    [
        *(({"max_new_tokens": n}, "max_new_tokens") for n in (0, MAX_NEW_TOKENS + 1, 2.0, True)),
        *(
            ({"choice": TokenChoice(temperature=t)}, "temperature")
            for t in (-0.1, 101, math.nan, math.inf, "warm", True, None)
        ),
        *(
            ({"choice": TokenChoice(top_p=p)}, "top_p")
            for p in (0, -1, 1.01, math.nan, "all", True, None)
        ),
        *(({"choice": TokenChoice(top_k=k)}, "top_k") for k in (-1, 1.0, True, None)),
        ({"stream": "stdout"}, "stream"),
        ({"cancel": True}, "cancel"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], name: str) -> None:
    with pytest.raises(RequestError, match=name):
        Answering(**options)


def test_the_bounds_themselves_are_accepted() -> None:
    for most in (1, MAX_NEW_TOKENS):
        Answering(max_new_tokens=most, choice=TokenChoice(temperature=100, top_p=1.0, top_k=0))
    Answering(stream=print, cancel=threading.Event())
    Answering(choice=TokenChoice(temperature=0, top_p=1, top_k=10**6))


# ---- how much of a video


BUDGETS = st.builds(
    VideoBudget,
    context_tokens=st.sampled_from([8192, 32_768, 131_072]),
    sound_tokens=st.integers(0, 4000),
    small=st.booleans(),
)
SIDES = st.integers(1, 4000)


@given(BUDGETS)
def test_frames_come_in_pairs(budget: VideoBudget) -> None:
    assert budget.most_frames % 2 == 0
    assert 4 <= budget.most_frames <= 768


@given(BUDGETS, st.floats(0.1, 7200), SIDES, SIDES)
@settings(max_examples=300)
def test_a_video_never_takes_more_than_its_share(
    budget: VideoBudget, duration_s: float, height: int, width: int
) -> None:
    """Nine tenths of the context with its sound, of any length and shape, as the towers see it."""
    assume(max(height, width) <= 200 * min(height, width))
    frames = understanding_count(duration_s, 10**9, budget.most_frames)
    assert frames % 2 == 0
    tokens = frames // 2 * tokens_of_a_grid(budget, frames, height, width)
    assert tokens + budget.sound_tokens <= 0.9 * budget.context_tokens


@pytest.mark.parametrize(
    ("height", "width"), [(480, 854), (1080, 1920), (1920, 1080), (1080, 1080), (90, 160)]
)
def test_a_long_video_of_a_usual_shape_takes_its_share_at_most(height: int, width: int) -> None:
    budget = VideoBudget(context_tokens=32_768, sound_tokens=0, small=False)
    frames = understanding_count(600, 10**9, budget.most_frames)
    tokens = frames // 2 * tokens_of_a_grid(budget, frames, height, width)
    assert tokens <= 0.9 * 32_768


def tokens_of_a_grid(budget: VideoBudget, frames: int, height: int, width: int) -> int:
    """After the resize that the budget asks for and the one of the senses."""
    pair = np.zeros((2, *budget.size(frames, height, width), 3), np.uint8)
    senses = Senses(BUNDLE, None)  # type: ignore[arg-type]  # nothing is run
    senses.cache = SimpleNamespace(get=lambda *_: None)  # type: ignore[assignment]
    return senses.seen(pair, as_they_are=True).layout.tokens


@given(st.integers(4, 768), SIDES, SIDES)
def test_small_frames_have_one_size(frames: int, height: int, width: int) -> None:
    budget = VideoBudget(context_tokens=32_768, sound_tokens=0, small=True)
    assert budget.size(frames // 2 * 2, height, width) == (224, 224)
