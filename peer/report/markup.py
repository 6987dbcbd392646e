"""The parts of a page: sections, tables, code, figures, and how they look on screens and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from peer import __version__, figures
from peer.figures import Drawing

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a page may load: nothing from elsewhere. The matrix of many peers' links is an image within it."""

LONG: Final = 48
"""Letters of a cell from which on it has several lines."""


def page(title: str, kind: str, verdict: str, sections: Sequence[str], writer: str = "peer report") -> str:
    """A whole page, which needs nothing outside it; `kind` is done, running or failed."""
    body = "\n".join(part for part in sections if part)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}: report of next-peer</title>
<style>
{STYLE}
@media screen and (prefers-color-scheme: dark) {{
{figures.dark()}
}}
</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="verdict {kind}">{escape(verdict)}</p>
</header>
<main>
{body}
</main>
<footer>Written by <code>{escape(writer)}</code> of next-peer {escape(__version__)}.</footer>
</body>
</html>
"""


def section(title: str, body: str) -> str:
    """A part of a page under a heading."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names its rows; it scrolls by itself where it is too wide or too long."""
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(map(_cell, rest)) + "</tr>" for first, *rest in rows
    )
    shown = f"<thead><tr>{heads}</tr></thead>\n" if any(head) else ""
    return f'<div class="table" tabindex="0"><table>\n{shown}<tbody>\n{lines}\n</tbody></table></div>'


def _cell(text: str) -> str:
    return f'<td class="long">{escape(text)}</td>' if len(text) > LONG else f"<td>{escape(text)}</td>"


def figure(name: str, title: str, caption: str, drawing: Drawing) -> str:
    """A figure with its words; `name` keeps its ids apart from those of other figures on the page."""
    return (
        f'<figure role="group" aria-label="{escape(title)}">{figures.svg(drawing, name)}'
        f"<figcaption><b>{escape(title)}.</b> {escape(caption)}</figcaption></figure>"
    )


def grid(shown: Iterable[str]) -> str:
    """Figures side by side, as many as there is room for."""
    return f'<div class="figures">{"".join(shown)}</div>'


def wide(shown: Iterable[str]) -> str:
    """Figures one below the other, each as wide as the page; where that is narrow, they scroll by themselves."""
    return f'<div class="wide" tabindex="0">{"".join(shown)}</div>'


def note(words: str) -> str:
    """A paragraph of explanation."""
    return f"<p>{escape(words)}</p>"


def folded(summary: str, body: str) -> str:
    """What is shown on request; on paper always."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def pre(lines: Sequence[str]) -> str:
    """Lines of code."""
    return f'<pre tabindex="0"><code>{escape(chr(10).join(lines))}</code></pre>'


def shown(value: float | None, form: str) -> str:
    """A number as text; a hyphen where there is none."""
    return "-" if value is None else format(value, form)


def names(peers: Sequence[int]) -> str:
    """Peers in words."""
    return f"peer{'s' * (len(peers) > 1)} {', '.join(map(str, peers))}"


def unit_of(n_bytes: float) -> tuple[float, str]:
    """What to divide a number of bytes by, for a person, and the unit that it is in then."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= factor:
            return factor, unit
    return 1.0, "B"


def size(n_bytes: float) -> str:
    """A number of bytes for a person."""
    factor, unit = unit_of(n_bytes)
    return f"{n_bytes / factor:.{1 if factor > 1.0 else 0}f}\N{NO-BREAK SPACE}{unit}"


STYLE: Final = """\
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #22272b; --pale: #5b646c; --line: #d5d9dc; --box: #f4f6f7;
  --done: #009e73; --running: #0072b2; --failed: #d55e00;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #15191d; --ink: #e6e9ec; --pale: #a3adb5; --line: #3a4147; --box: #1e2429;
    --done: #2fc99b; --running: #56b4e9; --failed: #f58a45;
  }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 2.5rem); max-width: 84rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, "DejaVu Sans", sans-serif;
}
h1 { margin: 0 0 .5rem; font-size: 1.8rem; line-height: 1.2; overflow-wrap: anywhere }
h2 { margin: 2.2rem 0 .8rem; font-size: 1.25rem }
h3 { margin: 1.4rem 0 .5rem; font-size: 1rem }
p, figcaption { max-width: 46rem }
section > p, footer, figcaption { color: var(--pale); font-size: .9rem }
.verdict { margin: 0; padding: .6rem .9rem; border-left: .3rem solid; background: var(--box); overflow-wrap: anywhere }
.done { border-color: var(--done) } .running { border-color: var(--running) } .failed { border-color: var(--failed) }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 2rem }
.wide { overflow-x: auto } .wide svg { min-width: 44rem; max-width: 68rem }
figure { margin: 0 }
svg { display: block; width: 100%; height: auto }
svg text { font-family: inherit !important }
figcaption { margin-top: .4rem }
.table { overflow: auto; max-height: 36rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .9rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child { padding-left: .2rem; text-align: left; font-weight: 600 }
td.long { min-width: 20rem; white-space: normal; text-align: left }
thead th { position: sticky; top: 0; background: var(--paper); font-weight: 600 }
pre { margin: 0 0 1rem; padding: .8rem 1rem; overflow: auto; background: var(--box); font-size: .85rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere }
summary { cursor: pointer; margin-bottom: .5rem }
footer { margin-top: 3rem }
@media (max-width: 34rem) {
  th, td { padding: .3rem .5rem; font-size: .9rem }
  th { white-space: normal; vertical-align: bottom }
  tbody th:first-child { min-width: 8.5rem }
  td.long { min-width: 14rem }
}
@media print {
  @page { margin: 15mm }
  body { padding: 0; max-width: none; font-size: 9pt }
  .table { max-height: none; overflow: visible }
  p, section > p, footer, figcaption, pre { max-width: none; font-size: 8pt }
  th, td { padding: .1rem .25rem; font-size: 7pt; white-space: normal }
  td.long { min-width: 20rem; white-space: normal; text-align: left }
thead th { position: static }
  .figures { grid-template-columns: repeat(2, 1fr); gap: 1rem }
  figure, tr, pre { break-inside: avoid }
  h2, h3 { break-after: avoid }
  .wide svg { min-width: 0 }
  details::details-content { display: block; content-visibility: visible; block-size: auto }
}"""
"""Of the page."""
