"""Cells of tables: percent, intervals, numbers."""

import pandas as pd

ABSENT = "\u2013"


def format_number(value: float, digits: int = 3) -> str:
    return ABSENT if pd.isna(value) else f"{value:.{digits}g}"


def format_percent(value: float) -> str:
    return f"{100 * value:.0f}" if value in (0, 1) else f"{100 * value:.1f}"


def format_interval(low: float, high: float) -> str:
    return f"[{format_percent(low)}, {format_percent(high)}]"
