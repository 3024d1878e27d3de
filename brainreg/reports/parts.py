"""Parts of a section of a page (figure, table, text, ...): `search.html.jinja` shows each kind."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure

from brainreg._utils.html import ABSENT
from brainreg.analysis.figures.style import png

# Dots an inch of a figure, and how wide it is shown, in CSS pixels an inch.
_DPI, _SHOWN_DPI = 220, 128


@dataclass(frozen=True)
class _Text:
    text: str
    kind: ClassVar[str]


class Note(_Text):
    """A small paragraph."""

    kind = "note"


class Lead(_Text):
    """A paragraph that answers first."""

    kind = "lead"


class Heading(_Text):
    """The title of a part of a section."""

    kind = "heading"


class Preformatted(_Text):
    """Lines that are shown as they are."""

    kind = "preformatted"


@dataclass(frozen=True)
class Notes:
    """A small list; nothing where it is empty."""

    texts: Sequence[str]
    kind: ClassVar[str] = "notes"


@dataclass(frozen=True)
class Links:
    """A list of other pages: a text and an address each."""

    pages: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "links"


@dataclass(frozen=True)
class Facts:
    """A name and a text a row."""

    facts: dict[str, str]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Table:
    """A table of texts; `left` says of each column whether it holds texts, and not numbers."""

    label: str
    head: list[str]
    rows: list[list[str]]
    left: list[bool]
    kind: ClassVar[str] = "table"

    @classmethod
    def of(cls, label: str, frame: pd.DataFrame, texts: Sequence[str] = ()) -> "Table":
        """Return a frame as a table; its first column, and columns of texts, stand at the left."""
        texts = [*texts, "search", "setting", "state", "range"]
        rows = [[*map(cell, row)] for row in frame.itertuples(index=False)]
        left = [place == 0 or name in texts for place, name in enumerate(frame.columns)]
        return cls(label, [str(name) for name in frame.columns], rows, left)


@dataclass(frozen=True)
class Run:
    """A run of a setting: what its row among all trials is called there, its number and its objective, in texts."""

    key: str
    trial: str
    objective: str


@dataclass(frozen=True)
class Settings:
    """A table of settings, whose column `runs` unfolds.

    Attributes:
        table: of texts.
        keys: of each row, what its setting is called in the page.
        runs: of each row.
    """

    table: Table
    keys: Sequence[str]
    runs: Sequence[Sequence[Run]]
    kind: ClassVar[str] = "settings"


@dataclass(frozen=True)
class Picture:
    """A figure of matplotlib.

    Attributes:
        caption: above it.
        text: what it shows, for who cannot see it.
        data: its PNG file, base64.
        size: width and height in CSS pixels.
        is_map: whether its lightness means something, so that it stays as it is on a dark page.
    """

    caption: str
    text: str
    data: str
    size: tuple[int, int]
    is_map: bool = False

    @classmethod
    def of(cls, figure: Figure, caption: str, text: str, is_map: bool = False) -> "Picture":
        """Draw a figure."""
        width, height = (round(_SHOWN_DPI * inches) for inches in figure.get_size_inches())
        return cls(caption, text, base64.b64encode(png(figure, _DPI)).decode("ascii"), (width, height), is_map)


@dataclass(frozen=True)
class Figures:
    """Pictures side by side, as far as there is room."""

    drawn: Sequence[Picture]
    kind: ClassVar[str] = "figures"


@dataclass(frozen=True)
class Folded:
    """What opens on demand."""

    summary: str
    part: "Part"
    kind: ClassVar[str] = "folded"


Part = Note | Lead | Notes | Links | Heading | Preformatted | Facts | Table | Settings | Figures | Folded


def cell(value: object) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, float) and not pd.isna(value):
        return f"{value:.6g}"
    return ABSENT if value is None or value is pd.NA or value != value else str(value)


def intervals(frame: pd.DataFrame) -> list[str]:
    """Return accuracies in percent, with their intervals, where they are known."""
    rows = zip(frame.accuracy, frame.low, frame.high, strict=True)
    return [
        ABSENT if pd.isna(middle) else f"{100 * middle:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        for middle, low, high in rows
    ]
