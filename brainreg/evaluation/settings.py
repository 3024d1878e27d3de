"""How robustness is measured: what can be asked for, of attacks, strengths and images."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from brainreg._utils.flags import COMMA_SEPARATED
from brainreg.attacks.names import attack_names

# So many minutes, or more, are no limit: an attack takes its images in as few batches as it can.
NO_LIMIT = 1e6


def attack_batch_size(device: str) -> int:
    """Return how many images are attacked together on a device, cpu or cuda, where nothing is asked for."""
    return 25 if device == "cpu" else 250


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    attack_names(names)
    return names


def _in_order(eps: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return None if eps is None else tuple(sorted(set(eps)))


Strengths = Annotated[tuple[Annotated[float, Field(ge=0)], ...] | None, COMMA_SEPARATED, AfterValidator(_in_order)]
NoiseStrengths = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], COMMA_SEPARATED, AfterValidator(_in_order)]


class Evaluation(BaseModel):
    """How the robustness of a trained network is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    attack: bool = Field(True, description="measure robustness, and not clean accuracy alone")
    attacks: Annotated[tuple[str, ...], COMMA_SEPARATED, AfterValidator(_known)] = Field(
        ("noise", "fgsm", "pgd", "autoattack"),
        description="attacks by name, separated by commas: gaussian, uniform, saltpepper, fgsm, pgd, transfer-fgsm,"
        " boundary, autoattack, autoattack-l2, autoattack-l1, square, each corruption; or noise, published,"
        " corruptions, all",
    )
    eps: Strengths = Field(
        None,
        description="strengths of the attacks that a norm bounds, in units of [0, 1] pixels, separated by commas"
        " (absent: the task's own for each norm)",
    )
    num_epsilons: int = Field(10, ge=2, description="strengths of each curve of noise, transferred FGSM, boundary")
    noise_eps: NoiseStrengths = Field(
        (),
        description="strengths of noise that are measured beside those of its curves, separated by commas",
    )
    num_images: int = Field(1000, ge=1, description="images that are attacked or corrupted, at most; noise: all")
    attack_minutes: float = Field(10, gt=0, description="time limit of each attack; four images are measured at least")
    attack_batch_size: int | None = Field(
        None, ge=1, description="images attacked together (absent: 250 on a GPU, 25 on a CPU)"
    )
