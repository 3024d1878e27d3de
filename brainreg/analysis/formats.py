"""Cells of tables: percent, intervals, numbers."""

import pandas as pd

ABSENT = "\u2013"


def format_number(value: float, digits: int = 3) -> str:
    """Return a number with so many digits, a dash where it is missing."""
    return ABSENT if pd.isna(value) else f"{value:.{digits}g}"


def format_percent(value: float) -> str:
    """Return a fraction in percent with one decimal; 0 and 100 without."""
    return f"{100 * value:.0f}" if value in (0, 1) else f"{100 * value:.1f}"


def format_interval(low: float, high: float) -> str:
    """Return an interval of fractions in percent, in brackets."""
    return f"[{format_percent(low)}, {format_percent(high)}]"
