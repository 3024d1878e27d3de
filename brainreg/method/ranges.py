"""The ranges of similarities: which pairs of images each selects, and which thresholds it needs.

Source: arXiv 2410.03952, section 3.2.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from brainreg.errors import InputError, nearest

if TYPE_CHECKING:
    import torch

RangeName = Literal["all", "high", "low", "positive", "negative", "high_positive", "double"]


def _given(reg_thresh_2: float | None) -> float:
    """Th_2 where a range needs it; `check_range` refuses a range without."""
    assert reg_thresh_2 is not None
    return reg_thresh_2


# What each range selects, by similarity S and the thresholds Th and Th_2. All inequalities are strict.
# A similarity that does not exist is NaN, for which every comparison is false.
RANGES: "dict[str, Callable[[torch.Tensor, float, float | None], torch.Tensor]]" = {
    "all": lambda s, th, th_2: s == s,
    "high": lambda s, th, th_2: s.abs() > th,
    "low": lambda s, th, th_2: s.abs() < th,
    "positive": lambda s, th, th_2: (s > th) | (s.abs() < th),
    "negative": lambda s, th, th_2: (s < -th) | (s.abs() < th),
    "high_positive": lambda s, th, th_2: s > th,
    "double": lambda s, th, th_2: (s.abs() > th) | (s.abs() < _given(th_2)),
}


def check_range(reg_range: str, reg_thresh: float, reg_thresh_2: float | None) -> None:
    """Raise InputError unless the range exists and its thresholds fit: `double` needs reg_thresh_2 < reg_thresh."""
    if reg_range not in RANGES:
        raise InputError(f"reg_range={reg_range}: no such range; {nearest(reg_range, RANGES)}")
    if reg_range == "double":
        if reg_thresh_2 is None:
            raise InputError("reg_thresh_2 is missing: the range double needs a second threshold below reg_thresh")
        if not reg_thresh_2 < reg_thresh:
            raise InputError(f"reg_thresh_2={reg_thresh_2:g}: must be below reg_thresh={reg_thresh:g}")
    elif reg_thresh_2 is not None:
        raise InputError(f"reg_thresh_2={reg_thresh_2:g}: only the range double uses it, not {reg_range}")
