"""Numbers as tables and lines show them, and the paper's symbols."""

from typing import Any

import pandas as pd

# The paper's symbols are shorter than the flags.
SYMBOLS = {
    "reg_alpha": "alpha",
    "reg_thresh": "Th",
    "reg_thresh_2": "Th_2",
    "reg_image_num": "N",
    "reg_batch_size": "k",
    "reg_range": "range",
}


def format_hyperparameter(value: Any) -> str:
    """Return a hyperparameter as a table shows it: three digits of a fraction, nothing where it is missing."""
    if pd.isna(value):
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_accuracy(value: Any) -> str:
    """Return an accuracy as a table shows it."""
    return "" if pd.isna(value) else f"{value:.3f}"


def format_probability(value: float) -> str:
    """Return a probability as people read it: never as sure as 0% or 100%.

    >>> format_probability(0.9996), format_probability(0.62), format_probability(0.001)
    ('over 99%', '62%', 'under 1%')
    """
    if pd.isna(value):
        return ""
    return "over 99%" if value > 0.995 else "under 1%" if value < 0.005 else f"{value:.0%}"


def format_duration(seconds: float) -> str:
    """Return a time as minutes and seconds, or hours and minutes.

    >>> format_duration(75), format_duration(8000)
    ('1m15s', '2h13m')
    """
    whole = round(seconds)
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m" if whole >= 3600 else f"{whole // 60}m{whole % 60:02d}s"
