"""What a hyperparameter is drawn from."""

from collections.abc import Sequence
from typing import Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# A number so near to a step, in steps, is on it.
_OFF_STEP = 1e-6


class Suggests(Protocol):
    """What draws values: an Optuna trial, or what stands in for one."""

    @property
    def user_attrs(self) -> dict[str, Any]: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...


class Distribution(BaseModel):
    """What Optuna draws a hyperparameter from: `choices`, or the numbers from `low` to `high`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    choices: tuple[Any, ...] | None = Field(None, min_length=1, description="draw one of these")
    low: float | None = Field(None, description="smallest value")
    high: float | None = Field(None, description="largest value")
    log: bool = Field(False, description="draw evenly on a logarithmic scale")
    step: float | None = Field(None, gt=0, description="distance of the values that can be drawn")
    times: str | None = Field(None, description="the drawn number is multiplied by this other hyperparameter")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        bounds = [name for name in ("low", "high", "log", "step", "times") if getattr(self, name) not in (None, False)]
        if self.choices is not None:
            if bounds:
                raise ValueError(f"{bounds[0]}={getattr(self, bounds[0])}: does not go with choices")
        elif self.low is None or self.high is None:
            raise ValueError(f"{'low' if self.low is None else 'high'}: missing; give choices, or low and high")
        elif not self.low < self.high:
            raise ValueError(f"low={self.low:g}: must be below high={self.high:g}")
        elif self.log and self.low <= 0:
            raise ValueError(f"low={self.low:g}: must be above 0 on a logarithmic scale")
        elif self.log and self.step is not None:
            raise ValueError(f"step={self.step:g}: does not go with log")
        return self

    def summary(self) -> str:
        """The distribution in a few words."""
        if self.choices is not None:
            return f"one of {', '.join(map(str, self.choices))}"
        scale = " (log)" if self.log else f" in steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{scale}" + (f", times {self.times}" if self.times else "")

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest number, where it is one of numbers."""
        assert self.low is not None and self.high is not None
        return self.low, self.high

    def extremes(self) -> tuple[Any, ...]:
        """The values that a bound can be checked by: all choices, or both ends."""
        return self.choices if self.choices is not None else (self.low, self.high)

    def contains(self, value: Any) -> bool:
        """Whether `value` can be drawn."""
        if self.choices is not None:
            return value in self.choices
        low, high = self.ends
        steps = 0.0 if self.step is None else (value - low) / self.step
        return low <= value <= high and abs(steps - round(steps)) < _OFF_STEP

    def suggest(self, trial: Suggests, name: str, kind: type) -> Any:
        """Draw a value in an Optuna trial, whole where the hyperparameter is."""
        if self.choices is not None:
            return trial.suggest_categorical(name, self.choices)
        low, high = self.ends
        if kind is int:
            return trial.suggest_int(name, int(low), int(high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, low, high, step=self.step, log=self.log)
