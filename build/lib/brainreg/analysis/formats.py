"""Cells of tables: percent, intervals, numbers."""

import pandas as pd

ABSENT = "\u2013"


def number(value: float, digits: int = 3) -> str:
    return ABSENT if pd.isna(value) else f"{value:.{digits}g}"


def percent(value: float) -> str:
    return f"{100 * value:.0f}" if value in (0, 1) else f"{100 * value:.1f}"


def interval(low: float, high: float) -> str:
    return f"[{percent(low)}, {percent(high)}]"
