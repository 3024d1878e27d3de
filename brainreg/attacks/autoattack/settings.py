"""The settings of AutoAttack (Croce and Hein, arXiv 2003.01690): its versions, and what each asks of data and model."""

import math
from collections.abc import Sequence
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from brainreg.attacks.names import AttackName, Norm
from brainreg.errors import InputError

# The attacks on the difference-of-logits ratio, and the logits that it compares.
_DLR, _DLR_CLASSES = ("apgd-dlr", "apgd-t"), 4

_VERSIONS: dict[str, tuple[AttackName, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}


class AutoAttackSettings(BaseModel):
    """Which version of AutoAttack; `AutoAttack.of` makes the attack itself.

    The versions `standard`, `plus` and `rand` are the authors' own. A `custom` one names its attacks and
    may shorten them; it is cheaper and weaker, and its name says so wherever a result is shown. As in the
    authors' code, the targeted attacks try nine target classes at the most (five in L1), or all the wrong ones if
    there are fewer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal["standard", "plus", "rand", "custom"] = Field("standard", description="version of AutoAttack")
    norm: Norm = Field("Linf", description="norm that bounds the perturbation")
    attacks: tuple[AttackName, ...] | None = Field(None, description="attacks of a custom version, in order")
    n_iter: int = Field(100, ge=1, description="steps of APGD and FAB in a custom version")
    n_restarts: int = Field(1, ge=1, description="random starts of APGD-CE and APGD-DLR in a custom version")
    n_target_classes: int = Field(9, ge=1, description="target classes tried in a custom version")
    n_queries: int = Field(5000, ge=1, description="queries of Square in a custom version")

    @model_validator(mode="after")
    def _custom_names_its_attacks(self) -> Self:
        if self.version == "custom" and not self.attacks:
            raise ValueError(f"attacks: missing; a custom version names them: {', '.join(get_args(AttackName))}")
        for name in ("attacks", "n_iter", "n_restarts", "n_target_classes", "n_queries"):
            given = getattr(self, name)
            if self.version != "custom" and given != type(self).model_fields[name].default:
                raise ValueError(f"{name}={given}: fixed by the version {self.version}; only a custom version sets it")
        return self

    @property
    def title(self) -> str:
        """What a result of this attack is called."""
        if self.version != "custom":
            return f"AutoAttack {self.version} {self.norm}"
        if self.attacks == ("square",):
            return f"Square {self.norm} ({self.n_queries} queries)"
        names = {*self._names}
        steps = [f"{self.n_iter} steps"] if names - {"square"} else []
        steps += [f"{self.n_restarts} starts"] if self.n_restarts > 1 else []
        steps += [f"{self.n_target_classes} targets"] if {"apgd-t", "fab-t"} & names else []
        steps += [f"{self.n_queries} queries"] if "square" in names else []
        return f"AutoAttack custom {self.norm} ({', '.join(self._names)}; {', '.join(steps)})"

    @property
    def largest(self) -> float:
        """The largest strength: the whole pixel range in Linf, no bound in the other norms."""
        return 1.0 if self.norm == "Linf" else math.inf

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise InputError if Square cannot take images of this shape (c, h, w).

        In L2 and L1 it begins with tiles, a fifth of the height wide, which must not stick out. In Linf it takes any.
        """
        _, height, width = shape
        tile = height // 5
        margin = (height - 5 * tile) // 2
        fits = tile == 1 or (tile > 1 and all(margin + side // tile * tile <= side for side in (height, width)))
        if "square" in self._names and self.norm != "Linf" and not fits:
            raise InputError(
                f"images: {height}x{width} pixels; the Square attack in {self.norm} cannot take this size; a custom"
                " version without square can"
            )

    def check_classes(self, classes: int, key: str = "attack") -> None:
        """Raise InputError if there are too few classes for one of the attacks: targeted DLR compares four logits.

        Args:
            key: what the attack is called where it was asked for, say `objective.attack`.
        """
        dlr = [name for name in self._names if name in _DLR]
        if dlr and classes < _DLR_CLASSES:
            given = f"{key}.attacks={','.join(self._names)}" if self.attacks else f"{key}.version={self.version}"
            raise InputError(
                f"{given}: {' and '.join(dlr)} need at least {_DLR_CLASSES} classes, and there are {classes}; a custom"
                " version of apgd-ce, fab-t and square needs 2"
            )

    def for_classes(self, classes: int) -> Self:
        """Return this attack; if there are too few classes for DLR, its other attacks, as a custom version, whose title
        names them. Where there is no other, and of the version rand, this attack.
        """
        attacks = tuple(name for name in self._names if name not in _DLR)
        if classes >= _DLR_CLASSES or self.version == "rand" or not attacks:
            return self
        if self.version == "custom":
            return self.model_copy(update={"attacks": attacks})
        starts = 5 if self.version == "plus" or self.norm == "L1" else 1  # as those versions have
        return type(self)(norm=self.norm, version="custom", attacks=attacks, n_restarts=starts)

    @property
    def _names(self) -> tuple[AttackName, ...]:
        return self.attacks or _VERSIONS[self.version]
