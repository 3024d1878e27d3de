"""What a confirmation trains: one job for each setting and seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from brainreg.hyperparameters import REGULARIZER, Hyperparameters
from brainreg.records.results import settings_of
from brainreg.spaces.names import EARLY_STOPPED, FOUND, LIKE_FOUND, UNREGULARIZED, shown_name
from brainreg.spaces.objective import Objective
from brainreg.spaces.space import Space


@dataclass(frozen=True)
class Job:
    """One setting with one seed.

    Attributes:
        setting: found, published, unregularized, early_stopped or unregularized_like_found.
        rank: of a found setting in the search, 1 for the best; 0 for the given ones.
        trial: of the search that had the setting; None where none did.
        settings: what is trained, with the fresh seed.
        objective: of the search, where the best epoch is chosen by it on validation images; else None.
        same_training: name of the job that trains the same network and chooses its epoch otherwise, so that it need not
            be trained twice; else None.
    """

    setting: str
    rank: int
    trial: int | None
    settings: Hyperparameters
    objective: Objective | None = None
    same_training: str | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return _job_name(self.setting if not self.rank else f"trial_{self.trial:04d}", self.settings.seed)

    def __str__(self) -> str:
        what = f"trial {self.trial}, rank {self.rank}" if self.rank else shown_name(self.setting)
        return f"{what}, seed {self.settings.seed}"


def _job_name(setting: str, seed: int) -> str:
    return f"{setting}-seed_{seed}"


def make_jobs(
    results: pd.DataFrame, space: Space, controls: Sequence[str], order: Sequence[int], seeds: Sequence[int]
) -> tuple[Job, ...]:
    """Return what a confirmation trains, one seed after the other, so that pairs are whole early.

    Args:
        results: the search's trials.
        space: what was searched.
        controls: names of the settings beside the found ones.
        order: numbers of the found settings' first trials, best first.
        seeds: fresh ones.
    """
    by_number = results.set_index("trial", drop=False)
    settings: list[tuple[str, int, int | None, Hyperparameters]] = [
        (FOUND, rank, number, settings_of(by_number.loc[number])) for rank, number in enumerate(order, start=1)
    ]
    for name in (name for name in space.controls if name in controls):
        numbers = results.trial[results.setting == name].tolist()
        hyperparameters = _like_found(settings[0][3]) if name == LIKE_FOUND else space.setting(name)
        settings.append((name, 0, numbers[0] if numbers else None, Hyperparameters(**hyperparameters)))
    return tuple(
        Job(
            setting,
            rank,
            number,
            one.model_copy(update={"seed": seed}),
            space.objective if setting == EARLY_STOPPED else None,
            _job_name(EARLY_STOPPED, seed) if setting == UNREGULARIZED and EARLY_STOPPED in controls else None,
        )
        for seed in seeds
        for setting, rank, number, one in settings
    )


def _like_found(found: Hyperparameters) -> dict[str, Any]:
    """The hyperparameters of a setting without its regularizer."""
    return {**found.model_dump(exclude={*REGULARIZER}), "reg_alpha": 0.0}
