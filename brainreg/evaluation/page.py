"""An evaluation as one HTML page: curves, adversarial examples, warnings."""

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from brainreg._utils.html import ABSENT, render_page
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


@dataclass(frozen=True)
class _Curve:
    """The panel of one attack, laid out in units of its view box: `curve` of `evaluation.html.jinja` draws it."""

    attack: str
    label: str
    up_ticks: list[tuple[float, str]]
    across_ticks: list[tuple[float, str]]
    clean: float | None
    band: str
    line: str
    points: list[tuple[float, float, str]]

    width, height, left, top = _WIDTH, _HEIGHT, _LEFT, _TOP
    across, up, foot = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM, _HEIGHT - _BOTTOM


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
    clean = next(iter(attacks.get("clean", [])), None)
    page = render_page(
        "evaluation.html.jinja",
        title,
        style="evaluation.css",
        warnings=warnings,
        facts=facts,
        summary=_table("Summary", _SAID, [rows[-1] for rows in attacks.values()]),
        curves=_curves(attacks, clean),
        clean="" if clean is None else f"{_accuracy(clean)} of {clean['n']} images",
        corruptions=[one for origin in CORRUPTIONS if (one := _corruptions(origin, attacks))],
        examples=[
            _example(example, example.attack in bounded or _in_pixels({"attack": example.attack}))
            for example in examples[:KEPT_EXAMPLES]
        ],
        all_examples=len(examples),
        measurements=_all(table),
        absent=ABSENT,
    )
    path = Path(path)
    Storage(path.parent).write(path.name, page)


# The columns of a table: what is said of a row, by the column's name.
_SAID: dict[str, Callable[[Row], str]] = {
    "strength": lambda row: _strength(row["eps"], _in_pixels(row)),
    "accuracy [95% interval]": lambda row: _accuracy(row),
    "n": lambda row: _plain(row["n"]),
    "seconds": lambda row: _plain(row["seconds"]),
}

# What the macro `table` takes: label, names of the columns, rows, and which columns hold texts.
_Table = tuple[str, list[str], list[list[str]], list[bool]]


def _all(table: pd.DataFrame) -> _Table:
    said = {}
    for column in table.columns.drop(["attack", "low", "high"]):
        name = {"eps": "strength", "accuracy": "accuracy [95% interval]"}.get(column, str(column))
        said[name] = _SAID.get(name, lambda row, column=column: _plain(row[column]))
    return _table("All measurements", said, table.to_dict("records"))


def _table(label: str, said: dict[str, Callable[[Row], str]], rows: Sequence[Row]) -> _Table:
    cells = [[str(row["attack"]), *(say(row) for say in said.values())] for row in rows]
    return label, ["attack", *said], cells, [True] + [False] * len(said)


def _curves(attacks: dict[str, list[Row]], clean: Row | None) -> list[_Curve]:
    known = {attack: [row for row in rows if _known(row)] for attack, rows in attacks.items() if not _origin(attack)}
    return [_curve(attack, rows, clean) for attack, rows in known.items() if len(rows) > 1]


def _curve(attack: str, rows: Sequence[Row], clean: Row | None) -> _Curve:
    """Lay out the panel of one attack, its rows in the order of their strengths."""
    largest, bounded = rows[-1]["eps"], _in_pixels(rows[0])

    def at(eps: float, accuracy: float) -> tuple[float, float]:
        return round(_LEFT + _Curve.across * eps / largest, 2), round(_TOP + _Curve.up * (1 - accuracy), 2)

    def joined(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x},{y}" for x, y in points)

    in_255ths = bounded and largest < 1 and all(_whole(row["eps"]) is not None for row in rows)
    told = [f"{_accuracy(row)} at {_strength(row['eps'], bounded)}" for row in rows]
    band = [at(row["eps"], row["low"]) for row in rows] + [at(row["eps"], row["high"]) for row in reversed(rows)]
    return _Curve(
        attack=attack,
        label=f"Accuracy under {attack}: {'; '.join(told)}",
        up_ticks=[(at(0, accuracy)[1], f"{accuracy:.0%}") for accuracy in (0, 0.25, 0.5, 0.75, 1)],
        across_ticks=[(at(eps, 0)[0], name) for eps, name in _ticks(largest, in_255ths)],
        clean=at(0, clean["accuracy"])[1] if clean is not None and _known(clean) else None,
        band=joined(band),
        line=joined([at(row["eps"], row["accuracy"]) for row in rows]),
        points=[
            (*at(row["eps"], row["accuracy"]), f"{text}, n = {row['n']}") for row, text in zip(rows, told, strict=True)
        ],
    )


def _ticks(largest: float, whole: bool) -> list[tuple[float, str]]:
    """Return round strengths from 0 to `largest` and their names, six at the most; 255ths if `whole`."""
    unit = 255 if whole else 1
    power = 10.0 ** math.floor(math.log10(largest) + 1e-9)
    steps = [2**i for i in range(9)] if whole else [m * power for m in (0.2, 0.5, 1, 2)]
    most = largest * unit * (1 + 1e-6)
    step = next((step for step in steps if most / step < 5.1), steps[-1])
    return [(i * step / unit, f"{i * step:g}{'/255' if whole and i else ''}") for i in range(int(most / step) + 1)]


def _corruptions(origin: str, attacks: dict[str, list[Row]]) -> dict[str, Any] | None:
    """Return the table of the corruptions of one origin, kinds x severities; None where there are none."""
    kinds = {attack: {row["eps"]: row for row in rows} for attack, rows in attacks.items() if _origin(attack) == origin}
    if not kinds:
        return None
    severities = sorted({severity for rows in kinds.values() for severity in rows})
    # At severity 0 are the clean images.
    known = [row for rows in kinds.values() for row in rows.values() if row["eps"] > 0 and _known(row)]
    mean = None
    if known:
        images = " to ".join(dict.fromkeys(_plain(end(row["n"] for row in known)) for end in (min, max)))
        of = f"over the {len(known)} measured pairs of kind and severity, each on {images} images"
        mean = f"{sum(row['accuracy'] for row in known) / len(known):.1%}", of
    return {
        "origin": origin,
        "severities": [f"{severity:g}" for severity in severities],
        "rows": [
            (" ".join(attack.replace(origin, " ").split()), [_heat_cell(rows.get(one)) for one in severities])
            for attack, rows in kinds.items()
        ],
        "mean": mean,
    }


def _heat_cell(row: Row | None) -> tuple[str, str, str] | None:
    """The accuracy as a number and as a text, and its interval; None where it is not known."""
    if row is None or not _known(row):
        return None
    accuracy, interval = _accuracy(row).split(" ", 1)
    return f"{row['accuracy']:.3f}", accuracy, interval


def _example(example: Example, in_pixels: bool) -> dict[str, Any]:
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
    return {
        "caption": f"{example.attack} at {_strength(example.strength, in_pixels)}",
        "width": max(_IMAGE_WIDTH, scale * clean.shape[2]),
        "images": [(*_picture(image, scale), text) for text, image in images.items()],
    }


def _factor(largest: float) -> float:
    """Return the largest number of one digit that keeps 0.5 plus and minus `largest` times it in [0, 1]."""
    room = 0.5 / largest * (1 + 1e-6) if largest > 0 else 1
    power = 10.0 ** math.floor(math.log10(room))
    return math.floor(room / power) * power


def _picture(image: np.ndarray, scale: int) -> tuple[str, tuple[int, int]]:
    """Return an image, (c, h, w) in [0, 1], as an 8-bit PNG file, base64, and how large it is shown."""
    pixels = np.rint(255 * image.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)
    height, width, channels = pixels.shape
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii"), (scale * width, scale * height)


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
