"""How long a search still takes."""

import math
from collections.abc import Sequence

# Trials that are attacked at the end: the recommended one, and two unregularized ones.
_FINAL_TRIALS = 3


def longest_final_attack(seconds: float, slots: int) -> float:
    """Return the seconds of the final attack, which takes so many on each trial, with so many trials at a time."""
    return math.ceil(_FINAL_TRIALS / slots) * seconds


def time_left(
    total: int, slots: int, done: Sequence[float], running: Sequence[float], afterwards: float = 0
) -> float | None:
    """Estimate how many seconds a search still takes; None before a trial is done.

    Args:
        total: trials of the search.
        slots: trials that run at a time.
        done: seconds that each ended trial took; 0 of those that were copied.
        running: seconds that each running trial has taken.
        afterwards: seconds that the search takes after its last trial.
    """
    own = [seconds for seconds in done if seconds]
    if not own:
        return None
    mean = sum(own) / len(own)
    rest = sum(max(mean - one, 0) for one in running)
    return ((total - len(done) - len(running)) * mean + rest) / slots + afterwards
