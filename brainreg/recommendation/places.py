"""Where settings lie in a space: the unit cube that a surrogate sees."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from brainreg.spaces.distribution import Distribution
from brainreg.spaces.space import Space

# Where a parameter lies that a setting does not have, such as Th_2 outside the range double.
_ABSENT = 0.5


class Places:
    """The unit cube of a space's parameters.

    A number lies where it lies between the ends of its range, of its logarithm where that is drawn; a choice is one
    axis for each of its values, and two choices have a distance of 1. Axes of one parameter share a length scale.

    Args:
        space: what is searched.

    Attributes:
        groups: (axes,) the number of each axis' parameter.
    """

    def __init__(self, space: Space):
        self._distributions = {space.parameter(key): one for key, one in space.search.items()}
        self._whole = {space.parameter(key): space.is_whole(key) for key in space.search}
        groups: list[int] = []
        for number, one in enumerate(self._distributions.values()):
            groups += [number] * (1 if one.choices is None else len(one.choices))
        self.groups = np.array(groups, dtype=int)

    @property
    def names(self) -> list[str]:
        """Names of the parameters, as Optuna has them."""
        return list(self._distributions)

    def place(self, params: Mapping[str, Any]) -> np.ndarray:
        """Return where a setting lies, (axes,) in [0, 1].

        Args:
            params: what was drawn; parameters that the setting does not have are missing.
        """
        axes: list[float] = []
        for name, one in self._distributions.items():
            value = params.get(name)
            if one.choices is not None:
                axes += [_ABSENT if value is None else float(value == choice) / math.sqrt(2) for choice in one.choices]
            else:
                axes.append(_ABSENT if value is None else _part(one, value))
        return np.clip(axes, 0.0, 1.0)

    def place_all(self, settings: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return where several settings lie, (settings, axes)."""
        return np.array([self.place(one) for one in settings]).reshape(len(settings), len(self.groups))

    def parts(self, params: Mapping[str, Any]) -> dict[str, float]:
        """Return at which part of its range each parameter of a setting lies, 0 to 1; `value` is the way back."""
        parts = {}
        for name, value in params.items():
            choices = self._distributions[name].choices
            if choices is not None:
                parts[name] = (choices.index(value) + 0.5) / len(choices)
            else:
                parts[name] = _part(self._distributions[name], value)
        return parts

    def value(self, name: str, part: float) -> Any:
        """Return the value of a parameter that lies at this part of its range, 0 to 1."""
        one, whole = self._distributions[name], self._whole[name]
        if one.choices is not None:
            return one.choices[min(int(part * len(one.choices)), len(one.choices) - 1)]
        low, high = one.ends
        step = one.step or (1.0 if whole and not one.log else None)
        if one.log:
            value = math.exp(math.log(low) + part * (math.log(high) - math.log(low)))
        elif step is not None:
            steps = int((high - low) / step + 1e-8)
            value = low + min(int(part * (steps + 1)), steps) * step
        else:
            value = low + part * (high - low)
        value = min(max(value, low), high)
        return round(value) if whole else value


def _part(one: Distribution, value: float) -> float:
    (low, high), value = one.ends, float(value)
    if one.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)
