"""How a search looks for its goal: objective, sampler, scheduler."""

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from brainreg.hyperparameters import Hyperparameters
from brainreg.seeds import text_seed
from brainreg.spaces.space import Space

# What the two goals are, in the order of the study's values.
GOALS = {"combined": ("objective",), "pareto": ("clean_accuracy", "robust_accuracy")}

# The sampler that proposes by the surrogate of the runs; the others are Optuna's.
SURROGATE = "thompson"

# In a shorter search, ASHA leaves too few trials that finish: of eight, one besides the unregularized setting.
_ASHA_FROM = 20


class Strategy(BaseModel):
    """How a search looks for its goal. It stays the same when a search is resumed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Literal["combined", "pareto"] = Field(
        "combined",
        description="maximize the weighted sum of accuracies, or find the front of clean and robust ones",
    )
    sampler: Literal["thompson", "tpe", "gp", "nsga2", "random"] = Field(
        "thompson",
        description="what proposes new settings: top-two Thompson sampling of the surrogate that also recommends, or"
        " one of Optuna's samplers",
    )
    seeds: int | None = Field(
        None,
        ge=1,
        description="runs of every setting, each with another seed (absent: the search decides which settings to run"
        " again)",
    )
    scheduler: Literal["asha", "none"] | None = Field(
        None,
        description="stop trials that a cheap proxy of robust accuracy ranks low, or train all to the end (absent: asha"
        f" for {_ASHA_FROM} trials or more)",
    )
    sampler_seed: int | None = Field(
        None, ge=0, lt=2**32, description="seed of what the sampler draws (absent: from the seed and the space)"
    )

    def scheduler_of(self, num_samples: int) -> str:
        """Return the scheduler of a search of so many trials."""
        return self.scheduler or ("asha" if num_samples >= _ASHA_FROM else "none")

    def completed(self, space: Space, num_samples: int, seed: int) -> "Strategy":
        """Return the strategy of a search of so many trials, with its scheduler and its sampler's seed.

        Args:
            space: what is searched.
            num_samples: trials.
            seed: of the search.
        """
        scheduler = self.scheduler_of(num_samples)
        drawn = sampler_seed(space, seed) if self.sampler_seed is None else self.sampler_seed
        return self.model_copy(update={"scheduler": scheduler, "sampler_seed": drawn})


def sampler_seed(space: Space, seed: int) -> int:
    """Return the seed of a search's proposals: the same for one space and seed, another one for another space.

    (Of the seed alone, the first proposals of every space would be the same draws.)
    """
    defaults = {name: field.default for name, field in Hyperparameters.model_fields.items()}
    content = space.model_dump(mode="json", include={"task", "reg_data", "search", "published"}, exclude_defaults=True)
    content["fixed"] = {
        name: value for name, value in space.fixed.items() if name != "seed" and value != defaults[name]
    }
    return text_seed(json.dumps([seed, content], sort_keys=True))
