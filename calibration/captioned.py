"""Cases of our own captions, sentences and questions, for any model.

What is heard in them is procedural, or a user's sounds; what is seen is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from omni_rt.audio import Audio
from omni_rt.calibration import prompts
from omni_rt.calibration.case import UNDERSTAND, Given, Told
from omni_rt.calibration.draws import Draw
from omni_rt.calibration.mixing import KINDS, Mixture, draw_mixture

_VOICE_S, _VOICE_SHARE = 4.0, 0.3  # of a clip: the rest is for the words to speak


def captioned_cases(draw: Draw, *, per_task: int, left_out: Collection[str]) -> Iterator[Told]:
    """Our own captions, sentences and questions."""
    ways = [way for way in _ASK if f"{UNDERSTAND}/{way}" not in left_out]
    for task, given in _GIVEN.items():
        for i in range(0 if task in left_out else per_task):
            yield f"{task}/{i}", given(replace(draw, task=task, index=i))
    for i in range(max(per_task, len(ways)) if ways else 0):
        ask = _ASK[ways[i % len(ways)]]
        yield f"{UNDERSTAND}/{i}", ask(replace(draw, task=UNDERSTAND, index=i))


def _heard(draw: Draw, most_s: float = np.inf) -> Audio:
    (wave,) = draw.waves([draw.one_of(KINDS, "kind")], "heard")
    return draw.recording(wave[: max(1, int(min(len(wave), most_s * draw.dims.sample_rate_hz)))])


def _described(captions: Sequence[str], draw: Draw) -> Given:
    """Every fourth prompt comes with a recording to go by."""
    example = {"audio": _heard(draw)} if draw.hears and draw.index % 4 == 3 else {}
    return {"prompt": draw.one_of(captions, "prompt"), **example}


def _filmed(captions: Sequence[str], draw: Draw) -> Given:
    return {"video": draw.film(), **_described(captions, draw)}


def _voiced(draw: Draw) -> Given:
    clip_s = draw.samples / draw.dims.sample_rate_hz
    (wave,) = draw.waves(["voice"], "voice")
    kept = max(1, int(min(_VOICE_S, _VOICE_SHARE * clip_s) * draw.dims.sample_rate_hz))
    said = draw.words("voice", draw.dims.transcript_ids // 2 - 2)  # a stop and a space follow
    return {"voice": draw.recording(wave[:kept]), "voice_transcript": said}


def _spoken(draw: Draw) -> Given:
    """Two without a voice, then two with one."""
    alone = draw.index // 2 % 2 == 0
    room = draw.dims.transcript_ids // (1 if alone else 2)
    return {"prompt": draw.words("prompt", room), **({} if alone else _voiced(draw))}


def _converted(draw: Draw) -> Given:
    room = draw.dims.transcript_ids // 2
    return {"transcript": draw.words("prompt", room), **_voiced(draw)}


def _pair(draw: Draw) -> tuple[Sequence[str], Mixture]:
    """Two sounds of different kinds in one recording, and their kinds."""
    stream = draw.stream("pair")
    kinds = [KINDS[i] for i in stream.permutation(len(KINDS))[:2]]
    first, second = draw.waves(kinds, "stems")
    rate_hz = draw.dims.sample_rate_hz
    return kinds, draw_mixture(first, second, stream, samples=draw.samples, rate_hz=rate_hz)


def _edited(draw: Draw) -> Given:
    """Add is given the first sound alone, the others both; all are told of the second."""
    kinds, pair = _pair(draw)
    source = pair.first if draw.task == "Add" else pair.both
    desc = draw.one_of(prompts.PARTS[kinds[1]], "desc")
    return {"source": draw.recording(source), "desc": desc}


def _restyled(draw: Draw) -> Given:
    kinds, pair = _pair(draw)
    names = [draw.one_of(prompts.CATEGORIES[kind], "category") for kind in kinds]
    source = draw.recording(pair.both)
    return {"source": source, "source_category": names[0], "target_category": names[1]}


_GIVEN: Mapping[str, Callable[[Draw], Given]] = {
    "T2A": partial(_described, prompts.SOUNDS),
    "T2M": partial(_described, prompts.MUSIC),
    "V2A": partial(_filmed, prompts.FOR_VIDEO),
    "V2M": partial(_filmed, prompts.MUSIC_FOR_VIDEO),
    "TTS": _spoken,
    "VC": _converted,
    "Add": _edited,
    "Remove": _edited,
    "Extract": _edited,
    "Style Transfer": _restyled,
}
_ASK: Mapping[str, Callable[[Draw], Given]] = {
    "audio": lambda d: {"question": d.one_of(prompts.ABOUT_SOUND, "audio"), "audio": _heard(d)},
    "video": lambda d: {"question": d.one_of(prompts.ABOUT_VIDEO, "video"), "video": d.film()},
    "text": lambda d: {"question": d.one_of(prompts.ABOUT_NOTHING, "text")},
}
