"""What a search maximizes; `spaces.measurement` measures it."""

from pydantic import BaseModel, ConfigDict, Field

from brainreg.attacks.autoattack.settings import AutoAttackSettings
from brainreg.attacks.names import NoiseName

# Images that are attacked, unless there are few.
_ATTACKED = 200


class Objective(BaseModel):
    """`weight * clean + (1 - weight) * robust`, both accuracies on validation images.

    Accuracy under noise is measured beside it and not optimized: a setting that withstands an attack well
    may stand noise badly, and whoever reads the results must see that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weight: float = Field(0.5, ge=0, le=1, description="w, weight of the clean accuracy in the objective")
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
    noise: NoiseName = Field("Gaussian", description="noise of the accuracy that is not optimized")
    noise_eps: float = Field(0.1, gt=0, le=1, description="its strength, a fraction of the pixel range")

    def combined(self, clean: float, robust: float) -> float:
        """Return the objective of two accuracies."""
        return self.weight * clean + (1 - self.weight) * robust

    def attacked_of(self, n: int) -> int:
        """Return how many of `n` validation images are attacked."""
        return self.attack_image_num or max(min(_ATTACKED, n // 2), 1)
