"""Pages to look at: one HTML file that holds its style and pictures, and asks nobody for anything.

No scripts, no fonts or pictures from elsewhere (its own policy forbids them); light and dark as the
reader's system is; tables scroll by themselves on narrow screens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from omni_rt.whole_file import checked_target, draft_of

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #ffffff; --quiet: #5c626b;
  --line: #d5d9df; --band: #f4f6f8; --good: #116329; --bad: #b3151f;
  --s0: #1f5fbf; --s1: #c2410c; --s2: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #16181c; --quiet: #a3abb6;
  --line: #3a3f47; --band: #202329; --good: #6fdc8c; --bad: #ff8389;
  --s0: #78a9ff; --s1: #ff9d57; --s2: #9aa3af; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
p, li, figcaption { max-width: 48rem; overflow-wrap: anywhere; }
figure { margin: 1rem 0; overflow-x: auto; }
figcaption, caption, .quiet { color: var(--quiet); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .75rem 0; }
caption { text-align: left; padding: .25rem 0; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9rem; }
thead th { color: var(--quiet); font-weight: 600; vertical-align: bottom; }
tbody tr:nth-child(even) { background: var(--band); }
ol, ul { padding-left: 1.5rem; font-size: .9rem; }
.pass { color: var(--good); font-weight: 600; } .fail { color: var(--bad); font-weight: 700; }
code { font-size: .9em; overflow-wrap: anywhere; }
svg { display: block; max-width: 100%; min-width: 32rem; height: auto; }
svg text { fill: var(--ink); font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
svg .axis { stroke: var(--quiet); fill: none; } svg .grid { stroke: var(--line); fill: none; }
svg .s0 { stroke: var(--s0); } svg .s1 { stroke: var(--s1); } svg .s2 { stroke: var(--s2); }
svg .f0 { fill: var(--s0); } svg .f1 { fill: var(--s1); } svg .f2 { fill: var(--s2); }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Markup: what was text in it is escaped."""

    __slots__ = ()


def text(value: str) -> Html:
    """Text as markup; markup as it is."""
    return value if isinstance(value, Html) else Html(escape(value))


def joined(parts: Iterable[str]) -> Html:
    """Pieces one after another."""
    return Html("\n".join(text(part) for part in parts))


def page(title: str, body: Iterable[str]) -> str:
    """A whole document."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{joined(body)}\n</main>\n</body>\n</html>\n"
    )


def heading(words: str, *, level: int = 2) -> Html:
    return Html(f"<h{level}>{text(words)}</h{level}>")


def paragraph(*words: str, quiet: bool = False) -> Html:
    kind = ' class="quiet"' if quiet else ""
    return Html(f"<p{kind}>{' '.join(map(text, words))}</p>")


def code(words: str) -> Html:
    return Html(f"<code>{text(words)}</code>")


def mark(passed: bool, *, good: str = "pass", bad: str = "FAIL") -> Html:
    """A tick or a cross, with the word for those who do not see its colour."""
    kind, sign, word = ("pass", "✓", good) if passed else ("fail", "✗", bad)
    return Html(f'<span class="{kind}">{sign}&nbsp;{text(word)}</span>')


def listing(items: Iterable[str], *, numbered: bool = False) -> Html:
    kind = "ol" if numbered else "ul"
    return Html(f"<{kind}>{''.join(f'<li>{text(item)}</li>' for item in items)}</{kind}>")


def details(summary: str, content: str) -> Html:
    """What is shown when it is asked for."""
    return Html(f"<details><summary>{text(summary)}</summary>{text(content)}</details>")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "") -> Html:
    """A table; the first column is text and names its row, the others align right."""
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns)
    body = "\n".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    return Html(
        f'<div class="wide"><table>{title}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def figure(content: Html, *, caption: str) -> Html:
    """A picture with words below it."""
    return Html(f"<figure>{content}<figcaption>{text(caption)}</figcaption></figure>")


def checked_page(path: str | Path) -> Path:
    """The path of a page to be written. Raises RequestError for what cannot be one."""
    return checked_target(path, {".html": "HTML", ".htm": "HTML"})[0]


def write_page(content: str, path: str | Path) -> Path:
    """Write a page, whole or not at all. Raises RequestError if it cannot be written."""
    target = checked_page(path)
    with draft_of(target) as draft:
        draft.write_text(content, encoding="utf-8")
    return target
