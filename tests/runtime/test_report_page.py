"""Pages that ask nobody for anything, in which text stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt import Audio, RequestError
from omni_rt import report_page as html
from omni_rt.report_page import Html
from omni_rt.svg_plots import bar_chart, line_plot, spectrogram_plot

VOID = {"meta"}
words = st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable())
numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


class Parsed(HTMLParser):
    """Elements must close in the order in which they opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_page_loads_nothing_and_runs_nothing() -> None:
    page = html.page("A & B", [html.heading("One"), html.paragraph("two")])
    parsed = Parsed(page)
    assert not {"script", "link", "iframe", "object", "img"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on") or name == "src"]
    assert "default-src 'none'" in page
    assert re.findall(r"https?://", page) == []
    assert "<title>A &amp; B</title>" in page


@given(st.lists(words, min_size=1, max_size=4))
def test_text_stays_text(texts: list[str]) -> None:
    row = [f"<b onclick=x>{text}&amp;\"'" for text in texts]
    parsed = Parsed(html.page(row[0], [html.table(row, [row]), html.listing(row), html.mark(True)]))
    assert "b" not in parsed.tags
    assert all(text in parsed.words for text in row)


def test_marks_do_not_depend_on_colour() -> None:
    assert "pass" in html.mark(True)
    assert "FAIL" in html.mark(False)
    assert Parsed(html.mark(True)).words[0] != Parsed(html.mark(False)).words[0]


def svg(plot: Html) -> ElementTree.Element:
    """The plot as XML, which it is too; with a title for those who do not see it."""
    root = ElementTree.fromstring(plot)
    assert root.get("role") == "img"
    title = root.find("{*}title")
    assert title is not None
    assert title.text == root.get("aria-label")
    return root


def labels(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter() if element.tag.endswith("}text")]


def markers(root: ElementTree.Element) -> list[tuple[float, float]]:
    """Where the points of the first line are, without the one in the legend."""
    circles = [e for e in root.iter() if e.tag.endswith("circle")]
    return [(float(e.get("cx", "")), float(e.get("cy", ""))) for e in circles[1:]]


@given(st.lists(st.tuples(numbers, st.floats(0, 1e6)), min_size=1, max_size=20), st.booleans())
def test_points_lie_within_the_axes(points: list[tuple[float, float]], falling: bool) -> None:
    root = svg(line_plot({"a": points}, title="T", x="t", y="e", falling=falling))
    places = markers(root)
    assert len(places) == len(points)
    assert all(73 <= px <= 705 and 33 <= py <= 253 for px, py in places)
    assert {"t", "e", "a"} <= set(labels(root))
    assert len(labels(root)) <= 2 * 8 + 3


def test_higher_values_are_drawn_higher_and_later_ones_to_the_right() -> None:
    points = [(1.0, 0.0), (0.5, 0.2), (0.0, 0.1)]
    root = svg(line_plot({"a": points}, title="T", x="t", y="e", falling=True))
    places = markers(root)
    assert places[0][0] < places[1][0] < places[2][0]
    assert places[0][1] > places[2][1] > places[1][1]


def test_bars_are_as_long_as_their_values() -> None:
    root = svg(bar_chart({"x": (2.0, 1.0), "y": (0.0, 4.0)}, ["a", "b"], title="T", unit="MB"))
    bars = [e for e in root.iter() if e.tag.endswith("rect") and e.get("height") == "12"]
    lengths = np.array([float(e.get("width", "")) for e in bars[2:]])  # after the legend
    assert lengths == pytest.approx(lengths[3] * np.array([0.5, 0.25, 0, 1]), abs=0.1)
    assert {"2.0 MB", "4.0 MB", "x", "y", "a", "b"} <= set(labels(root))


@given(st.dictionaries(words.map(lambda text: 3 * text), st.tuples(st.floats(0, 1e9)), max_size=5))
def test_any_bars_fit_the_picture(rows: dict[str, tuple[float]]) -> None:
    root = svg(bar_chart(rows, ["a"], title="T", unit="MB"))
    for bar in (e for e in root.iter() if e.tag.endswith("rect")):
        assert float(bar.get("x", "")) + float(bar.get("width", "")) <= 720


@pytest.mark.parametrize("rate", [1000, 8000, 44_100])
@pytest.mark.parametrize("samples", [1, 5000])
def test_spectrograms_have_a_picture_each_and_both_axes(rate: int, samples: int) -> None:
    loud = Audio(np.ones((2, samples), np.float32), rate)
    silent = Audio(np.zeros((2, samples), np.float32), rate)
    for clips in ({"one": loud, "two": silent}, {"one": silent, "two": silent}):
        root = svg(spectrogram_plot(clips, title="T"))
        pictures = [e for e in root.iter() if e.tag.endswith("image")]
        assert len(pictures) == 2
        assert all(e.get("href", "").startswith("data:image/png;base64,") for e in pictures)
        assert {"one", "two", "0 s", "0 kHz", f"{rate / 2000:g} kHz"} <= set(labels(root))


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = html.write_page(html.page("T", []), tmp_path / "page.html")
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    for wrong in (tmp_path / "page.pdf", tmp_path / "no" / "page.html", tmp_path):
        with pytest.raises(RequestError, match="cannot write"):
            html.write_page("x", wrong)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(RequestError, match="cannot write"):
        html.write_page("x", tmp_path / "folder.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.html", "page.html"]
