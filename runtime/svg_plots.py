"""Small plots as inline SVG: lines, bars, and spectrograms with their axes. No library.

Colours are classes of `report_page`'s style, so plots follow light and dark; series differ in dash
and marker too. Every plot has role="img" and says its title and values' range to those who listen.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence

from omni_rt.audio import Audio
from omni_rt.report_page import Html, text
from omni_rt.spectrogram_png import panel_power, panels_png

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 16, 34, 48
_DASHES = ("", "7 4", "2 3")
_BAR_PX, _BAR_GAP_PX = 14, 10
_MOST_LETTERS = 46  # of a bar's name: the end of a longer one is shown

Points = Sequence[tuple[float, float]]


def line_plot(
    series: Mapping[str, Points], *, title: str, x: str, y: str, falling: bool = False
) -> Html:
    """Lines from 0 up; at most three series. falling: x runs from large to small."""
    points = [point for line in series.values() for point in line]
    xs, ys = _ticks([p[0] for p in points]), _ticks([0.0, *(p[1] for p in points)])
    left, right = (xs[-1], xs[0]) if falling else (xs[0], xs[-1])

    def at(point: tuple[float, float]) -> tuple[float, float]:
        along = (point[0] - left) / (right - left)
        up = (point[1] - ys[0]) / (ys[-1] - ys[0])
        return (
            _LEFT + along * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = _axes([(at((v, ys[0]))[0], f"{v:g}") for v in xs], x)
    parts += _levels([(at((left, v))[1], f"{v:g}") for v in ys], y)
    parts += _legend(list(series))
    for i, line in enumerate(series.values()):
        parts += _line(i, [at(point) for point in line])
    return _svg(title, parts, _HEIGHT)


def _line(index: int, places: Sequence[tuple[float, float]]) -> list[str]:
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
    line = (
        f'<polyline class="s{index}" fill="none" stroke-width="2" '
        f'stroke-dasharray="{_DASHES[index]}" points="{path}"/>'
    )
    return [line, *(_marker(index, px, py) for px, py in places)]


def _marker(index: int, px: float, py: float) -> str:
    if index == 0:
        return f'<circle class="f0" cx="{px:.1f}" cy="{py:.1f}" r="3.5"/>'
    return f'<rect class="f{index}" x="{px - 3:.1f}" y="{py - 3:.1f}" width="6" height="6"/>'


def _axes(ticks: Sequence[tuple[float, str]], label: str) -> list[str]:
    floor, middle = _HEIGHT - _BOTTOM, (_LEFT + _WIDTH - _RIGHT) / 2
    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{floor}H{_WIDTH - _RIGHT}"/>']
    for px, name in ticks:
        parts.append(f'<path class="axis" d="M{px:.1f} {floor}v5"/>')
        parts.append(_text(px, floor + 19, name, "middle"))
    return [*parts, _text(middle, _HEIGHT - 8, label, "middle")]


def _levels(ticks: Sequence[tuple[float, str]], label: str) -> list[str]:
    parts = []
    for py, name in ticks:
        parts.append(f'<path class="grid" d="M{_LEFT} {py:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 7, py + 4, name, "end"))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = f'<g transform="rotate(-90 16 {middle:.1f})">{_text(16, middle, label, "middle")}</g>'
    return [*parts, turned]


def _legend(names: Sequence[str]) -> list[str]:
    parts, at = [], float(_LEFT)
    for i, name in enumerate(names):
        parts.append(
            f'<path class="s{i}" fill="none" stroke-width="2" stroke-dasharray="{_DASHES[i]}" '
            f'd="M{at:.0f} 14h26"/>{_marker(i, at + 13, 14)}'
        )
        parts.append(_text(at + 32, 18, name, "start"))
        at += 56 + 7.5 * len(name)
    return parts


def bar_chart(
    rows: Mapping[str, Sequence[float]],
    names: Sequence[str],
    *,
    title: str,
    unit: str,
    digits: int = 1,
) -> Html:
    """Horizontal bars from 0, one per series for each row, with their values; at most three."""
    group = _BAR_PX * len(names) + _BAR_GAP_PX
    height = _TOP + group * len(rows) + 8
    label = 14 + round(8 * min(_MOST_LETTERS, max(map(len, rows), default=0)))
    widest = max((value for values in rows.values() for value in values), default=0.0) or 1.0
    room = _WIDTH - label - 96
    parts = []
    for i, name in enumerate(names):
        at = label + sum(34 + 7.5 * len(before) for before in names[:i])
        parts.append(f'<rect class="f{i}" x="{at:.0f}" y="8" width="12" height="12"/>')
        parts.append(_text(at + 18, 18, name, "start"))
    for row, (name, values) in enumerate(rows.items()):
        top = _TOP + row * group
        shown = name if len(name) <= _MOST_LETTERS else f"…{name[1 - _MOST_LETTERS :]}"
        parts.append(_text(label - 8, top + _BAR_PX * len(values) / 2 + 4, shown, "end"))
        for i, value in enumerate(values):
            py, length = top + i * _BAR_PX, room * max(value, 0) / widest
            parts.append(
                f'<rect class="f{i}" x="{label}" y="{py}" width="{length:.1f}" '
                f'height="{_BAR_PX - 2}"/>'
            )
            words = f"{value:.{digits}f} {unit}"
            parts.append(_text(label + length + 6, py + _BAR_PX - 3, words, "start"))
    return _svg(title, parts, height)


def spectrogram_plot(clips: Mapping[str, Audio], *, title: str) -> Html:
    """Spectrograms above each other, brightness alike in all: 60 dB below the loudest is dark.

    Clips are shown as the mean of their channels, from 0 to half their rate.
    """
    rows, most_columns = 160, 640
    waves = {name: clip.samples.mean(axis=0) for name, clip in clips.items()}
    hop = max(1, math.ceil(max(map(len, waves.values())) / most_columns))
    powers = [panel_power(wave, rows=rows, column_samples=hop) for wave in waves.values()]
    loudest = max(float(power.max(initial=0.0)) for power in powers)
    seconds = _ticks([0.0, max(clip.duration_s for clip in clips.values())])
    span, panel = _WIDTH - _LEFT - _RIGHT, rows + 44
    per_s = span / max(clip.duration_s for clip in clips.values())
    parts = []
    for i, (name, clip) in enumerate(clips.items()):
        top = 24 + i * panel
        png = panels_png([waves[name]], rows=rows, column_samples=hop, loudest=loudest)
        parts.append(_text(_LEFT, top - 8, name, "start"))
        parts.append(
            f'<image x="{_LEFT}" y="{top}" width="{per_s * clip.duration_s:.1f}" height="{rows}" '
            f'preserveAspectRatio="none" href="data:image/png;base64,'
            f'{base64.b64encode(png).decode()}"/>'
        )
        for share in (0, 0.5, 1):
            khz = share * clip.sample_rate_hz / 2000
            parts.append(_text(_LEFT - 7, top + rows * (1 - share) + 4, f"{khz:g} kHz", "end"))
        for second in seconds:
            px = _LEFT + second * per_s
            if px <= _LEFT + span:
                parts.append(f'<path class="axis" d="M{px:.1f} {top + rows}v4"/>')
                parts.append(_text(px, top + rows + 17, f"{second:g} s", "middle"))
    return _svg(title, parts, 24 + panel * len(clips))


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers a 1, 2 or 5 apart that enclose the values: three to eight of them."""
    low, high = min(values), max(values)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-300):
        high = low + (abs(low) or 1.0)
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    for factor in (1, 2, 5):
        if (high - low) / (factor * step) <= 6:
            step *= factor
            break
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def _text(px: float, py: float, words: str, anchor: str) -> str:
    return f'<text x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}">{text(words)}</text>'


def _svg(title: str, parts: Sequence[str], height: float) -> Html:
    name = text(title)
    return Html(
        f'<svg role="img" aria-label="{name}" viewBox="0 0 {_WIDTH} {height:g}" '
        f'width="{_WIDTH}" height="{height:g}" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{name}</title>{''.join(parts)}</svg>"
    )
