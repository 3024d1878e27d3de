"""What all HTML pages share: the frame, tables, pictures and boxes. No page needs a network."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape

# What stands where nothing is known.
ABSENT = "\u2013"


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #57606a; --rule: #d0d7de; --line: #0b57a4;
  --heat: 38 120 200; --caution: #fff3d1; --edge: #b45f06; --calm: #f3f5f7; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e8eaed; --soft: #aab2bb;
  --rule: #3a424b; --line: #74b5ff; --heat: 52 118 190; --caution: #3b2c08; --edge: #e3a13a; --calm: #1d2228; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }
h1, figcaption, .warnings, .facts td { overflow-wrap: anywhere; }
h2, summary { font-size: 1.15rem; font-weight: 600; margin: 2.25rem 0 .5rem; }
summary { cursor: pointer; }
p { margin: .5rem 0; }
.note, .facts th, thead th { color: var(--soft); }
.note { font-size: .875rem; }
.warnings { border-left: .35rem solid var(--edge); background: var(--caution); padding: .75rem 1rem; }
.warnings h2 { margin: 0; }
.warnings ul { margin: .35rem 0 0; padding-left: 1.2rem; }
.calm { border-left: .35rem solid var(--rule); background: var(--calm); padding: .5rem 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1.25rem .3rem 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
thead th { vertical-align: bottom; }
tbody th { font-weight: 400; min-width: 6rem; }
.number { text-align: right; white-space: nowrap; }
.facts th { white-space: nowrap; min-width: 0; }
figure { margin: 0; min-width: 0; }
.panels { display: grid; gap: 1.5rem; align-items: end; }
.panels { grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
figcaption { font-size: .9rem; margin-bottom: .25rem; }
svg { display: block; width: 100%; height: auto; }
img { display: block; max-width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; }
.key { display: inline-block; margin-right: 1.5rem; }
.key svg { display: inline; width: 2rem; height: .9rem; vertical-align: -.1rem; margin-right: .25rem; }
.axis { stroke: var(--soft); fill: none; }
.grid { stroke: var(--rule); }
@media (max-width: 36rem) { body { padding: 1rem .75rem; } table { font-size: .8rem; }
  th, td { padding-right: .35rem; } .number { white-space: normal; } .facts th { padding-right: .75rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } table { font-size: 8pt; }
  .scroll { overflow: visible; } tr, figure { break-inside: avoid; } h2, .note, summary { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  details::details-content { content-visibility: visible; block-size: auto; } }
"""


def page(title: str, content: str, style: str = "", script: str = "") -> str:
    """Return a page that loads nothing, and that runs no script but its own.

    Args:
        title: a text.
        content: HTML of the body.
        style: CSS beside that of all pages.
        script: JavaScript.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        script = f"\n<script>{script}</script>"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<main>
{content}
</main>{script}
</body>
</html>
"""


def warning_box(title: str, texts: Sequence[str]) -> str:
    """Return a box of what a reader must know first."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<section class="warnings"><h2>{escape(title)}</h2><ul>{items}</ul></section>'


def facts_table(facts: Mapping[str, str]) -> str:
    """Return a table of a name and a text a row."""
    rows = "".join(f'<tr><th scope="row">{escape(str(k))}</th><td>{escape(str(v))}</td></tr>' for k, v in facts.items())
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def html_table(label: str, head: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[str] = ()) -> str:
    """Return a table of texts.

    Args:
        label: what it shows.
        head: names of the columns; the first one names the row.
        rows: cells.
        texts: columns that hold no numbers; the first one never does.
    """
    left = [True, *(name in texts for name in head[1:])]
    kinds = ["" if one else ' class="number"' for one in left]
    names = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in zip(kinds, head, strict=True))
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    return scrolling(label, f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>")


def scrolling(label: str, content: str) -> str:
    """Return what may be wider than a screen, so that it alone scrolls, by keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'


def picture(png: bytes, size: tuple[int, int], text: str) -> str:
    """Return a PNG image within the page.

    Args:
        png: the file.
        size: width and height in CSS pixels.
        text: what it shows, for who cannot see it.
    """
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" width="{size[0]}" height="{size[1]}" alt="{escape(text)}">'
