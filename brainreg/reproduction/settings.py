"""How much of a row is reproduced."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# Differences over seeds need as many.
ENOUGH_SEEDS = 2


class Reproduction(BaseModel):
    """What is reproduced."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: Literal["narrow", "full"] | None = Field(
        None,
        description="narrow networks on a part of the images, or what the paper has (absent: full where there is a GPU"
        " or where the row has no narrow size)",
    )
    budget: float | None = Field(
        None,
        gt=0,
        description="minutes that it may cost; GPU minutes where there are GPUs (absent: an hour, or the least that the"
        " row takes on this machine)",
    )
    trials: int | None = Field(
        None, ge=1, description="of the search, whatever they cost; with seeds (absent: by budget)"
    )
    seeds: int | None = Field(
        None,
        ge=ENOUGH_SEEDS,
        description="of each confirmed setting, whatever they cost; with trials (absent: by budget)",
    )
    images: int | None = Field(
        None,
        ge=2,
        description="test images that are attacked, of each network; with trials and seeds (absent: as the search's"
        " repeated runs tell, within the time)",
    )
    id: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="what the fresh seeds of the confirmation are drawn from; another one repeats the row with other"
        " seeds (absent: the row's own, so that the same command makes the same networks again)",
    )
    sampler_seed: int | None = Field(
        None, ge=0, lt=2**32, description="seed of the search's proposals (absent: from the row's space)"
    )
    precision: Literal["float32", "bfloat16"] | None = Field(
        None,
        description="arithmetic of the networks in training; bfloat16 is faster where the hardware has it, and"
        " measurements stay float32 (absent: the row's)",
    )
    save_dir: str = Field(
        "analysis/results", description="folder in which ROW_SIZE/ gets settings, numbers and figures at the end"
    )
