"""Mean accuracies over seeds, with their intervals."""

import math
from collections.abc import Sequence

import pandas as pd

from brainreg.statistics import student_interval


def over_seeds(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return mean accuracies and their 95% intervals.

    Args:
        frame: columns `accuracy`, a fraction, `low` and `high`, its interval over images, and those of `by`. Rows that
            are the same in those are of different seeds.
        by: columns that tell the groups apart.

    Returns:
        A row for each group: the columns of `by`, accuracy (mean), low and high, seeds (how many). The interval is
        Student's over seeds where there are two or more, and may then end below 0 or above 1; else it is that over
        images, which says nothing of seeds.
    """
    rows = []
    for values, group in frame.groupby([*by], sort=False, dropna=False):
        accuracies = group.accuracy.astype(float)
        count, mean = len(group), accuracies.mean()
        low, high = (float(group[end].iloc[0]) if end in group else math.nan for end in ("low", "high"))
        if count > 1:
            low, high = student_interval(accuracies)
        rows.append([*values, mean, low, high, count])
    return pd.DataFrame(rows, columns=[*by, "accuracy", "low", "high", "seeds"])
