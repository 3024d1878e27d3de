"""An evaluation as one HTML page: curves, adversarial examples, warnings."""

import io
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from brainreg._utils.html import ABSENT, facts_table, html_table, page, picture, scrolling, warning_box
from brainreg.attacks.resumable import KEPT_EXAMPLES
from brainreg.evaluation.robustness import Example
from brainreg.storage import Storage

# The title of a corruption ends with where its images come from.
CORRUPTIONS = ("(CIFAR-10-C)", "(CIFAR-100-C)", "(generated)")


Row = dict[str, Any]


_NORMS = {"Linf", "L2", "L1"}


# Of a curve, in units of its view box: width and height, and what lies left, right, above and below the axes.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 236, 46, 24, 10, 44


# Images are enlarged by a whole factor, to so many CSS pixels at the most.
_IMAGE_WIDTH = 112


_STYLE = """
.heat td { background: rgb(var(--heat) / calc(.72 * var(--accuracy, 0))); border: 2px solid var(--paper); }
.heat td, .heat th + th, .heat tr + tr th[scope=col] { text-align: center; padding: .2rem .5rem; }
.heat th { border: 0; vertical-align: middle; }
.heat .interval { display: block; font-size: .75rem; line-height: 1.2; white-space: nowrap; }
.examples { display: grid; gap: 1.5rem; align-items: end; }
.examples { grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
.band { fill: var(--line); fill-opacity: .2; }
.line { stroke: var(--line); stroke-width: 2; fill: none; }
.point { fill: var(--line); }
.clean { stroke: var(--ink); stroke-dasharray: 6 4; }
.images { display: grid; grid-template-columns: repeat(3, minmax(0, var(--width))); gap: .5rem; font-size: .85rem;
  line-height: 1.3; overflow-wrap: anywhere; }
img { image-rendering: pixelated; }
@media (max-width: 36rem) { .interval, .heat .interval { display: none; }
  .heat td, .heat tr + tr th[scope=col] { padding: .2rem; } }
"""


def write_report(
    path: str | Path,
    table: pd.DataFrame,
    *,
    title: str,
    facts: dict[str, str],
    warnings: list[str],
    examples: list[Example],
) -> None:
    """Write a robustness table, and what belongs to it, as one HTML file; whole or not at all.

    Args:
        path: of the file; one that is there is replaced.
        table: a row for each attack and strength: attack, eps, n, correct, accuracy, low and high (fractions; 95%
            interval), seconds, seed; also norm (of what a strength bounds, in units of [0, 1] pixels) and any other
            column. The attack `clean` is no attack.
        title: of the report.
        facts: what was measured and how, in the order shown.
        warnings: what the checks of the result found.
        examples: misclassified images; the first `KEPT_EXAMPLES` are shown.

    Raises:
        ValueError: two rows of one attack and strength; an example that is no pair of images of 1 or 3 channels.
        StorageError: the file cannot be written.
    """
    attacks: dict[str, list[Row]] = {attack: [] for attack in map(str, table["attack"])}
    for row in table.sort_values("eps", kind="stable").to_dict("records"):
        attacks[str(row["attack"])].append(row)
    for attack, rows in attacks.items():
        if len({row["eps"] for row in rows}) < len(rows):
            raise ValueError(f"table: {attack} twice at one eps; must be one row for each attack and eps")
    bounded = {attack for attack, rows in attacks.items() if _in_pixels(rows[0])}
    parts = [
        f"<h1>{escape(title)}</h1>",
        _warnings(warnings),
        _facts(facts),
        _summary(attacks),
        _curves(attacks),
        *(_heat(origin, attacks) for origin in CORRUPTIONS),
        _examples(examples, bounded),
        f"<details><summary>All measurements ({len(table)})</summary>{_all(table)}</details>",
    ]
    content = "\n".join(part for part in parts if part)
    path = Path(path)
    Storage(path.parent).write(path.name, page(title, content, _STYLE))


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return '<p class="calm">None of the checks raised a warning.</p>'
    return warning_box(f"Warnings ({len(warnings)})", warnings)


def _facts(facts: dict[str, str]) -> str:
    return f"<h2>What was measured</h2>{facts_table(facts)}" if facts else ""


# The columns of a table: what is said of a row, by the column's name.
_SAID: dict[str, Callable[[Row], str]] = {
    "strength": lambda row: _strength(row["eps"], _in_pixels(row)),
    "accuracy [95% interval]": lambda row: _accuracy(row),
    "n": lambda row: _plain(row["n"]),
    "seconds": lambda row: _plain(row["seconds"]),
}


def _summary(attacks: dict[str, list[Row]]) -> str:
    note = "Each attack at the strongest strength measured. n: images; seconds: of all its strengths."
    body = _table("Summary", _SAID, [rows[-1] for rows in attacks.values()])
    return f'<h2>Summary</h2><p class="note">{note}</p>{body}'


def _all(table: pd.DataFrame) -> str:
    said = {}
    for column in table.columns.drop(["attack", "low", "high"]):
        name = {"eps": "strength", "accuracy": "accuracy [95% interval]"}.get(column, str(column))
        said[name] = _SAID.get(name, lambda row, column=column: _plain(row[column]))
    return _table("All measurements", said, table.to_dict("records"))


def _table(label: str, said: dict[str, Callable[[Row], str]], rows: Sequence[Row]) -> str:
    cells = [[str(row["attack"]), *(say(row) for say in said.values())] for row in rows]
    return html_table(label, ["attack", *said], cells)


def _curves(attacks: dict[str, list[Row]]) -> str:
    clean = next(iter(attacks.get("clean", [])), None)
    curves = {attack: [row for row in rows if _known(row)] for attack, rows in attacks.items() if not _origin(attack)}
    panels = "".join(_curve(attack, rows, clean) for attack, rows in curves.items() if len(rows) > 1)
    if not panels:
        return ""
    keys = {
        "accuracy": '<path class="line" d="M0 7H32"/><circle class="point" cx="16" cy="7" r="3.5"/>',
        "95% interval": '<rect class="band" width="32" height="14"/>',
    }
    if clean is not None:
        keys[f"clean accuracy, {_accuracy(clean)} of {clean['n']} images"] = '<path class="clean" d="M0 7H32"/>'
    legend = "".join(
        f'<span class="key"><svg viewBox="0 0 32 14" aria-hidden="true">{mark}</svg>{escape(text)}</span>'
        for text, mark in keys.items()
    )
    return f'<h2>Accuracy by strength</h2><p class="note">{legend}</p><div class="panels">{panels}</div>'


def _curve(attack: str, rows: Sequence[Row], clean: Row | None) -> str:
    """Return the panel of one attack, its rows in the order of their strengths."""
    largest, bounded = rows[-1]["eps"], _in_pixels(rows[0])
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at(eps: float, accuracy: float) -> tuple[float, float]:
        return round(_LEFT + width * eps / largest, 2), round(_TOP + height * (1 - accuracy), 2)

    def joined(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x},{y}" for x, y in points)

    marks = []
    for accuracy in (0, 0.25, 0.5, 0.75, 1):
        x, y = at(0, accuracy)
        marks.append(f'<path class="grid" d="M{x} {y}h{width}"/>')
        marks.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{accuracy:.0%}</text>')
    for eps, name in _ticks(largest, bounded and largest < 1 and all(_whole(row["eps"]) is not None for row in rows)):
        x, y = at(eps, 0)
        marks.append(
            f'<path class="axis" d="M{x} {y}v4"/><text x="{x}" y="{y + 17}" text-anchor="middle">{name}</text>'
        )
    if clean is not None and _known(clean):
        x, y = at(0, clean["accuracy"])
        marks.append(f'<path class="clean" d="M{x} {y}h{width}"/>')
    band = [at(row["eps"], row["low"]) for row in rows] + [at(row["eps"], row["high"]) for row in reversed(rows)]
    marks.append(f'<polygon class="band" points="{joined(band)}"/>')
    marks.append(f'<polyline class="line" points="{joined([at(row["eps"], row["accuracy"]) for row in rows])}"/>')
    said = [f"{_accuracy(row)} at {_strength(row['eps'], bounded)}" for row in rows]
    for row, text in zip(rows, said, strict=True):
        x, y = at(row["eps"], row["accuracy"])
        marks.append(f'<circle class="point" cx="{x}" cy="{y}" r="3.5"><title>{text}, n = {row["n"]}</title></circle>')
    marks.append(f'<path class="axis" d="M{_LEFT} {_TOP}v{height}h{width}"/>')
    marks.append(f'<text x="{_LEFT + width / 2}" y="{_HEIGHT - 6}" text-anchor="middle">strength</text>')
    label = escape(f"Accuracy under {attack}: {'; '.join(said)}")
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(marks)}</svg>'
    return f"<figure><figcaption>{escape(attack)}</figcaption>{svg}</figure>"


def _ticks(largest: float, whole: bool) -> list[tuple[float, str]]:
    """Return round strengths from 0 to `largest` and their names, six at the most; 255ths if `whole`."""
    unit = 255 if whole else 1
    power = 10.0 ** math.floor(math.log10(largest) + 1e-9)
    steps = [2**i for i in range(9)] if whole else [m * power for m in (0.2, 0.5, 1, 2)]
    most = largest * unit * (1 + 1e-6)
    step = next((step for step in steps if most / step < 5.1), steps[-1])
    return [(i * step / unit, f"{i * step:g}{'/255' if whole and i else ''}") for i in range(int(most / step) + 1)]


def _heat(origin: str, attacks: dict[str, list[Row]]) -> str:
    """Return the table of the corruptions of one origin, kinds x severities."""
    kinds = {attack: {row["eps"]: row for row in rows} for attack, rows in attacks.items() if _origin(attack) == origin}
    if not kinds:
        return ""
    severities = sorted({severity for rows in kinds.values() for severity in rows})
    head = "".join(f'<th scope="col">{severity:g}</th>' for severity in severities)
    body = "".join(
        f'<tr><th scope="row">{escape(" ".join(attack.replace(origin, " ").split()))}</th>'
        + "".join(_heat_cell(rows.get(severity)) for severity in severities)
        + "</tr>"
        for attack, rows in kinds.items()
    )
    over = f'<th rowspan="2" scope="col">kind</th><th colspan="{len(severities)}" scope="colgroup">severity</th>'
    head = f"<tr>{over}</tr><tr>{head}</tr>"
    body = scrolling(f"Corruptions {origin}", f'<table class="heat"><thead>{head}</thead><tbody>{body}</tbody></table>')
    note = 'Accuracy<span class="interval"> [95% interval]</span>; the stronger the color, the higher.'
    # At severity 0 are the clean images.
    known = [row for rows in kinds.values() for row in rows.values() if row["eps"] > 0 and _known(row)]
    if known:
        mean = sum(row["accuracy"] for row in known) / len(known)
        images = " to ".join(dict.fromkeys(_plain(end(row["n"] for row in known)) for end in (min, max)))
        of = f"over the {len(known)} measured pairs of kind and severity, each on {images} images"
        body += f"<p><strong>Mean corruption accuracy: {mean:.1%}</strong>, {of}.</p>"
    return f'<h2>Corruptions {origin}</h2><p class="note">{note}</p>{body}'


def _heat_cell(row: Row | None) -> str:
    if row is None or not _known(row):
        return f"<td>{ABSENT}</td>"
    accuracy, interval = _accuracy(row).split(" ", 1)
    return f'<td style="--accuracy: {row["accuracy"]:.3f}">{accuracy}<span class="interval"> {interval}</span></td>'


def _examples(examples: Sequence[Example], bounded: set[str]) -> str:
    """Return the first examples; `bounded` holds attacks whose strengths are in units of pixels."""
    if not examples:
        return ""
    figures = "".join(
        _example(example, example.attack in bounded or _in_pixels({"attack": example.attack}))
        for example in examples[:KEPT_EXAMPLES]
    )
    note = f"{min(len(examples), KEPT_EXAMPLES)} of {len(examples)} shown; in a difference, mid gray is no change."
    return f'<h2>Misclassified images</h2><p class="note">{note}</p><div class="examples">{figures}</div>'


def _example(example: Example, in_pixels: bool) -> str:
    clean, adversarial = (image.detach().cpu().double().numpy() for image in (example.clean, example.adversarial))
    if clean.ndim != 3 or len(clean) not in (1, 3) or clean.shape != adversarial.shape:
        raise ValueError(f"example: {clean.shape} and {adversarial.shape}; must be one shape, (1 or 3, h, w)")
    difference = adversarial - clean
    factor = _factor(np.abs(difference).max())
    images = {
        f"original: {example.label}": clean,
        f"adversarial: {example.predicted}": adversarial,
        f"difference \u00d7 {factor:g}": 0.5 + factor * difference,
    }
    scale = max(1, _IMAGE_WIDTH // clean.shape[2])
    shown = "".join(f"<div>{_picture(image, scale, text)}{escape(text)}</div>" for text, image in images.items())
    caption = f"{example.attack} at {_strength(example.strength, in_pixels)}"
    style = f"--width: {max(_IMAGE_WIDTH, scale * clean.shape[2])}px"
    return (
        f'<figure><figcaption>{escape(caption)}</figcaption><div class="images" style="{style}">{shown}</div></figure>'
    )


def _factor(largest: float) -> float:
    """Return the largest number of one digit that keeps 0.5 plus and minus `largest` times it in [0, 1]."""
    room = 0.5 / largest * (1 + 1e-6) if largest > 0 else 1
    power = 10.0 ** math.floor(math.log10(room))
    return math.floor(room / power) * power


def _picture(image: np.ndarray, scale: int, text: str) -> str:
    """Return an image, (c, h, w) in [0, 1], as an 8-bit PNG within the page."""
    pixels = np.rint(255 * image.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)
    height, width, channels = pixels.shape
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "PNG")
    return picture(file.getvalue(), (scale * width, scale * height), text)


def _origin(attack: str) -> str | None:
    """Return where a corruption's images come from; None for what is no corruption."""
    return next((origin for origin in CORRUPTIONS if origin in attack), None)


def _known(row: Row) -> bool:
    return not math.isnan(row["accuracy"])


def _in_pixels(row: Row) -> bool:
    """Whether strengths bound a norm of the perturbation, by the row's norm or the attack's title."""
    return row.get("norm") in _NORMS or not _NORMS.isdisjoint(re.findall(r"\w+", str(row["attack"])))


def _whole(eps: float) -> int | None:
    """Return how many 255ths a strength is, if it is a whole number of them."""
    return round(255 * eps) if abs(255 * eps - round(255 * eps)) < 1e-4 else None


def _strength(eps: float, in_pixels: bool) -> str:
    return f"{eps:g} ({_whole(eps)}/255)" if in_pixels and 0 < eps < 1 and _whole(eps) else f"{eps:g}"


def _accuracy(row: Row) -> str:
    """Return say `83.2% [80.8, 85.3]`, where a line never breaks within the brackets."""
    if not _known(row):
        return ABSENT
    return f"{row['accuracy']:.1%} [{100 * row['low']:.1f},\u00a0{100 * row['high']:.1f}]"


def _plain(value: Any) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ABSENT
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value.is_integer() or abs(value) >= 1000 else f"{value:.4g}"
