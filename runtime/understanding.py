"""Questions about sound and video, answered in text: conversations, and how tokens become text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from omni_rt.answering import TokenChoice
from omni_rt.errors import RequestError
from omni_rt.options import is_number
from omni_rt.preprocess.chat import AUDIO_TAG, VIDEO_TAG, Tokenizer, check_text, conversation
from omni_rt.preprocess.patches import LEAST_PX, MOST_PX, fitted_size, understanding_most_px
from omni_rt.senses import Seen
from omni_rt.thinker import Item

MAX_NEW_TOKENS = 8192
LEAST_TRANSCRIPT_TOKENS, TRANSCRIPT_TOKENS_PER_S = 256, 12  # fast speech is about 8 a second
TRANSCRIBE = "Write down the words that are spoken, exactly as they are said, and nothing else."

_TOKEN_SIDE = 28
_TOKEN_PX = _TOKEN_SIDE**2
_MOST_FRAMES = 768
_VIDEO_SHARE = 0.9  # of the thinker's context that a video may fill
_SMALL_PX = 224
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"

OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A question and its answer, with what was shown with the question."""

    question: str
    answer: str
    media: tuple[Item, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer. `history` goes into the next question of the conversation."""

    text: str
    history: tuple[Turn, ...]
    tokens: int
    complete: bool  # False: it was cut at max_new_tokens
    seed: int  # what a drawn answer is repeated with
    prompt_tokens: int
    reused_tokens: int  # of the prompt, that were in the cache

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """How to answer, checked."""

    max_new_tokens: int = 1024
    choice: TokenChoice = field(default_factory=TokenChoice)
    seed: int = 0
    stream: OnText | None = None
    cancel: threading.Event | None = None

    def __post_init__(self) -> None:
        most, choice = self.max_new_tokens, self.choice
        if type(most) is not int or not 1 <= most <= MAX_NEW_TOKENS:
            raise RequestError(f"max_new_tokens must be 1 to {MAX_NEW_TOKENS}, got {most!r}")
        if not (is_number(choice.temperature) and 0 <= choice.temperature <= 100):
            raise RequestError(f"temperature must be 0 to 100, got {choice.temperature!r}")
        if not (is_number(choice.top_p) and 0 < choice.top_p <= 1):
            raise RequestError(f"top_p must be above 0 and at most 1, got {choice.top_p!r}")
        if type(choice.top_k) is not int or choice.top_k < 0:
            raise RequestError(f"top_k must be 0 (all) or more, got {choice.top_k!r}")
        if self.stream is not None and not callable(self.stream):
            raise RequestError(f"stream must be callable, got {self.stream!r}")
        if self.cancel is not None and not callable(getattr(self.cancel, "is_set", None)):
            raise RequestError(f"cancel must be a threading.Event, got {self.cancel!r}")


def checked_history(history: object) -> tuple[Turn, ...]:
    """Turns from what the caller gives: Turns, or pairs of question and answer."""
    if history is None:
        return ()
    if isinstance(history, (str, bytes)) or not isinstance(history, Iterable):
        raise RequestError("history is a list of Turns, such as the last reply's history")
    return tuple(map(_turn, history))


def _turn(given: object) -> Turn:
    if isinstance(given, Turn):
        return given
    if isinstance(given, (list, tuple)) and len(given) == 2:
        question, answer = given
        return Turn(
            question=check_text(question, what="history: a question"),
            answer=check_text(answer, what="history: an answer"),
        )
    raise RequestError(f"history holds Turns or (question, answer) pairs, got {given!r:.80}")


def conversation_text(
    system: str, history: Sequence[Turn], question: str, own: Sequence[Item]
) -> str:
    """The whole prompt with one placeholder per item (spec THINKER §3.1)."""
    turns = [(media_tags(turn.media) + turn.question, turn.answer) for turn in history]
    return conversation(system, turns, media_tags(own) + question)


def media_tags(items: Sequence[Item]) -> str:
    """The tags of a turn's items, in their order."""
    return "".join(VIDEO_TAG if isinstance(item, Seen) else AUDIO_TAG for item in items)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoBudget:
    """How many frames of which size a video may have, so that its tokens fit.

    The original's bounds (spec THINKER §3.5), and nine tenths of the thinker's context.
    """

    context_tokens: int
    sound_tokens: int
    small: bool

    @property
    def _tokens(self) -> float:
        return max(_VIDEO_SHARE * self.context_tokens - self.sound_tokens, 1)

    @property
    def most_frames(self) -> int:
        """An even number of frames whose smallest tokens fit; 4 at least."""
        px = _SMALL_PX**2 if self.small else 1.05 * LEAST_PX
        fitting = int(self._tokens / (px / _TOKEN_PX)) * 2
        return max(min(_MOST_FRAMES, fitting), 4)

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Height and width for so many frames, in whole tokens."""
        if self.small:
            return _SMALL_PX, _SMALL_PX
        per_grid = max(int(self._tokens / -(-frames // 2)), 1)
        most = min(MOST_PX, understanding_most_px(frames), max(per_grid * _TOKEN_PX, LEAST_PX))
        rows, columns = (
            side // _TOKEN_SIDE
            for side in fitted_size(height, width, least_px=LEAST_PX, most_px=most)
        )
        while rows * columns > per_grid:  # the least size is a few tokens more than it says
            rows, columns = (rows - 1, columns) if rows > columns else (rows, columns - 1)
        return rows * _TOKEN_SIDE, columns * _TOKEN_SIDE


def text_pieces(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[tuple[int, str]]:
    """Token by token: how many there are, and the text that is certain since the last piece.

    A character whose bytes are not all there is held back.
    """
    ids: list[int] = []
    sent = ""
    for token in tokens:
        ids.append(token)
        certain = tokenizer.decode(ids).rstrip(_UNFINISHED)
        yield len(ids), certain[len(sent) :]
        sent = max(sent, certain, key=len)
    rest = tokenizer.decode(ids)[len(sent) :]
    if rest:
        yield len(ids), rest
