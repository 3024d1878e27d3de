"""What a search maximizes; `spaces.measurement` measures it."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from brainreg.attacks.autoattack.settings import AutoAttackSettings
from brainreg.attacks.names import NoiseName

# By how much the sum of two weights may be above 1.
_ROUNDING = 1e-9

# Images that are attacked, unless there are few.
_ATTACKED = 200


class Objective(BaseModel):
    """`weight * clean + noise_weight * noise + (1 - weight - noise_weight) * robust`: accuracies on validation images.

    Accuracy under noise is always measured, also where it has no weight: a setting that withstands an attack well may
    stand noise badly, and whoever reads the results must see that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weight: float = Field(0.5, ge=0, le=1, description="w, weight of the clean accuracy in the objective")
    noise_weight: float = Field(
        0,
        ge=0,
        le=1,
        description="weight of the accuracy under noise, which is always measured, in the objective",
    )
    eps: float = Field(gt=0, le=1, description="largest perturbation of the attack, in units of [0, 1] pixels")
    attack: AutoAttackSettings = Field(AutoAttackSettings(), description="version of AutoAttack")
    attack_image_num: int | None = Field(
        None,
        ge=1,
        description=f"validation images that are attacked (absent: {_ATTACKED}, or half of them where there are fewer"
        f" than {2 * _ATTACKED})",
    )
    attack_batch_size: int = Field(250, ge=1, description="images attacked together")
    proxy_image_num: int = Field(100, ge=1, description="of those, images of the proxy after each epoch, at most")
    noise: NoiseName = Field("Gaussian", description="noise of the accuracy under noise")
    noise_eps: float = Field(0.1, gt=0, le=1, description="its strength, a fraction of the pixel range")

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.weight + self.noise_weight > 1 + _ROUNDING:
            raise ValueError(f"noise_weight={self.noise_weight:g} and weight={self.weight:g}: must add up to at most 1")
        return self

    @property
    def rule(self) -> str:
        """What is weighted how, in words."""
        return objective_rule(self.weight, self.noise_weight)

    @property
    def robust_weight(self) -> float:
        """What the other two weights leave."""
        return float(_rest(self.weight, self.noise_weight))

    def combined(self, clean: float, robust: float, noise: float) -> float:
        """Return the objective of three accuracies; that under noise may be any number where it has no weight."""
        return combined_accuracy(self.weight, self.noise_weight, clean, robust, noise)

    def attacked_of(self, n: int) -> int:
        """Return how many of `n` validation images are attacked."""
        return self.attack_image_num or max(min(_ATTACKED, n // 2), 1)


def combined_accuracy(weight: Any, noise_weight: Any, clean: Any, robust: Any, noise: Any) -> Any:
    """Return the objective of accuracies with these weights: of numbers, or of columns of a table."""
    return weight * clean + noise_weight * noise + _rest(weight, noise_weight) * robust


def _rest(weight: Any, noise_weight: Any) -> Any:
    """What two weights leave; what rounding leaves is nothing."""
    rest = 1 - weight - noise_weight
    return rest * (rest > _ROUNDING) + 0.0  # no -0


def objective_rule(weight: float, noise_weight: float) -> str:
    """Return in words what accuracies an objective with these weights is a sum of."""
    noise = f" + {noise_weight:g} noise" if noise_weight else ""
    return f"{weight:g} clean + {_rest(weight, noise_weight):g} robust{noise}"
