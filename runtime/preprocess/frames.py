"""Which frames of a video are looked at: rules over indices and times, nothing decoded here.

A time is a Fraction of a second since the video's first frame (spec SYNCHFORMER §1, THINKER §3.5).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Generic, TypeVar

from omni_rt.errors import RequestError

SYNC_HZ, SLOW_HZ = 25, 5
UNDERSTANDING_HZ = 2
_LEAST_NEWS = Fraction(1, 4)  # a window with less new footage than this is not started

Picture = TypeVar("Picture")
Stream = Iterable[tuple[Fraction, Callable[[], Picture]]]  # times ascend; a call makes the picture
Rates = tuple[list[Picture], list[Picture]]  # one window at SYNC_HZ and at SLOW_HZ


def upstream_indices(
    *,
    fps: Fraction | float,
    frames_in_file: int,
    target_hz: int,
    seconds: int,
    start_s: Fraction | float = 0,
) -> list[int]:
    """The original's choice: every ⌈fps / target⌉-th frame, whatever its time; the last repeated.

    In time for 25 and 50 fps only. Behind the end of the file it is the file's last frame.
    """
    _some(frames_in_file)
    stride, wanted = math.ceil(fps / target_hz), target_hz * seconds
    first = math.trunc(start_s * fps)
    chosen = list(range(first, min(first + wanted * stride, frames_in_file), stride))
    chosen = chosen or [frames_in_file - 1]
    return chosen + chosen[-1:] * (wanted - len(chosen))


def time_correct_indices(
    times: Sequence[Fraction], *, target_hz: int, count: int, start: Fraction | int = 0
) -> list[int]:
    """Slot j shows the first frame at or after start + j / target; at the end the last repeats."""
    _some(len(times))
    sampler = TimeSampler(target_hz=target_hz, start=start)
    chosen: list[int] = []
    for index, time in enumerate(times):
        chosen += [index] * min(sampler.take(time), count - len(chosen))
    return chosen + [len(times) - 1] * (count - len(chosen))


def understanding_count(duration_s: Fraction | float, frames_in_file: int, most: int = 768) -> int:
    """How many frames are understood: two per second, even, 4 to `most`, not above the file's.

    A file of one frame has that one twice.
    """
    _some(frames_in_file)
    return max(2, int(min(max(duration_s * UNDERSTANDING_HZ, 4), most, frames_in_file)) // 2 * 2)


def spread_indices(frames_in_file: int, count: int) -> list[int]:
    """`count` indices from the first to the last, rounded half to even."""
    _some(frames_in_file)
    return [round(Fraction(j * (frames_in_file - 1), max(1, count - 1))) for j in range(count)]


def nearest_indices(times: Sequence[Fraction], count: int) -> list[int]:
    """The frames nearest to `count` moments from the first frame to the last, evenly spread.

    Of two that are equally near it is the even one, as `spread_indices` has it at constant rate.
    """
    _some(len(times))
    step = (times[-1] - times[0]) / max(1, count - 1)
    chosen, index = [], 0
    for j in range(count):
        moment = times[0] + j * step
        while index + 1 < len(times) and times[index + 1] <= moment:
            index += 1
        later = min(index + 1, len(times) - 1)
        before, after = moment - times[index], times[later] - moment
        chosen.append(later if (after, later % 2) < (before, index % 2) else index)
    return chosen


@dataclass(slots=True, kw_only=True)
class TimeSampler:
    """How many further slots each frame of a stream fills, by the rule of `time_correct_indices`.

    A frame that comes after a gap fills all slots that waited for it.
    """

    target_hz: int
    start: Fraction | int = 0
    filled: int = field(default=0, init=False)

    def take(self, time: Fraction) -> int:
        """Slots that the frame shown at `time` fills; none for one that no slot waits for."""
        reached = math.floor((time - self.start) * self.target_hz) + 1
        new = max(0, reached - self.filled)
        self.filled += new
        return new


def time_correct_windows(
    stream: Stream[Picture], *, frame_s: Fraction, window_s: int, count: int | None
) -> Iterator[Rates[Picture]]:
    """Windows one after the other, in time. Only pictures that are looked at are made, once.

    `frame_s` is how long the last frame stays; `count` windows, or as many as there is footage for.
    """
    sampler = TimeSampler(target_hz=SYNC_HZ)
    slots: list[Picture] = []
    given, size, ending = 0, window_s * SYNC_HZ, _Ending[Picture]()
    for time, make in stream:
        ending.see(time, make)
        if new := sampler.take(time):
            slots += [make()] * new
        while len(slots) >= size:
            yield _both(slots[:size])
            del slots[:size]
            given += 1
            if given == count:
                return
    last = ending.picture()
    for _ in range(given, ending.windows(count, frame_s, window_s)):
        yield _both(slots + [last] * (size - len(slots)))
        slots = []


def upstream_windows(
    stream: Stream[Picture],
    *,
    fps: Fraction,
    frame_s: Fraction,
    window_s: int,
    count: int | None,
) -> Iterator[Rates[Picture]]:
    """As `time_correct_windows`, by the rule of `upstream_indices`: windows may share footage."""
    waiting: deque[_Strided[Picture]] = deque()
    given, begun, ending = 0, 0, _Ending[Picture]()
    for index, (time, make) in enumerate(stream):
        ending.see(time, make)
        while math.trunc(begun * window_s * fps) <= index:
            waiting.append(_Strided(math.trunc(begun * window_s * fps), fps, window_s))
            begun += 1
        wanting = [window for window in waiting if window.wants(index)]
        if wanting:
            picture = make()
            for window in wanting:
                window.take(index, picture)
        while waiting and waiting[0].full:
            yield waiting.popleft().rates
            given += 1
            if given == count:
                return
    last = ending.picture()
    for _ in range(given, ending.windows(count, frame_s, window_s)):
        window = waiting.popleft() if waiting else _Strided(0, fps, window_s)
        yield window.filled_up(last)


@dataclass(slots=True)
class _Ending(Generic[Picture]):
    """Remembers the last frame of a stream that is not known to end until it does."""

    time: Fraction = Fraction(0)
    make: Callable[[], Picture] | None = None

    def see(self, time: Fraction, make: Callable[[], Picture]) -> None:
        self.time, self.make = max(time, self.time), make

    def picture(self) -> Picture:
        if self.make is None:
            raise RequestError("the video holds no frames")
        return self.make()

    def windows(self, count: int | None, frame_s: Fraction, window_s: int) -> int:
        news = self.time + frame_s - _LEAST_NEWS
        return count or max(1, math.floor(news / window_s) + 1)


class _Strided(Generic[Picture]):
    """One window of the original's rule while it fills, at both rates."""

    def __init__(self, start: int, fps: Fraction, window_s: int) -> None:
        self._start = start
        self.rates: Rates[Picture] = ([], [])
        self._rules = [
            (pictures, math.ceil(fps / hz), hz * window_s)
            for pictures, hz in zip(self.rates, (SYNC_HZ, SLOW_HZ), strict=True)
        ]

    @property
    def full(self) -> bool:
        return all(len(pictures) == wanted for pictures, _, wanted in self._rules)

    def _open(self, index: int) -> list[list[Picture]]:
        return [
            pictures
            for pictures, stride, wanted in self._rules
            if len(pictures) < wanted and (index - self._start) % stride == 0
        ]

    def wants(self, index: int) -> bool:
        return bool(self._open(index))

    def take(self, index: int, picture: Picture) -> None:
        for pictures in self._open(index):
            pictures.append(picture)

    def filled_up(self, last: Picture) -> Rates[Picture]:
        """The window at the end of the file: its last picture repeated, `last` if it has none."""
        for pictures, _, wanted in self._rules:
            pictures += [pictures[-1] if pictures else last] * (wanted - len(pictures))
        return self.rates


def _both(slots: list[Picture]) -> Rates[Picture]:
    return slots, slots[:: SYNC_HZ // SLOW_HZ]


def _some(frames: int) -> None:
    if frames < 1:
        raise RequestError("a video needs at least one frame")
