"""The searches that a page is about."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from brainreg._utils.flags import DATA_DIR, train_command
from brainreg.recommendation.setting_table import Advice
from brainreg.records.manifest import FormatError, read_manifest
from brainreg.records.results import settings_of
from brainreg.records.searches import Searches, load_advices, load_searches
from brainreg.spaces.names import EARLY_STOPPED
from brainreg.spaces.space import Space
from brainreg.storage import Storage


@dataclass(frozen=True)
class Subject:
    """Searches, by their names, and what all sections of a page ask of them.

    Attributes:
        folders: of the searches.
        beside: folder of this machine in which the page will lie; None where other files cannot be reached from it.
    """

    folders: Mapping[str, Storage]
    beside: Path | None = None

    @cached_property
    def searches(self) -> Searches:
        """Their trials, overview, confirmations and notes."""
        return load_searches([*self.folders.values()])

    @cached_property
    def advices(self) -> dict[str, tuple[Advice, Space]]:
        """What their runs say of settings, and what was searched: see `load_advices`."""
        return load_advices([*self.folders.values()], self.trials)

    @property
    def trials(self) -> pd.DataFrame:
        """Of all searches; the index tells trials apart."""
        return self.searches.trials

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return len(self.folders) > 1

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The place of each search, from 0."""
        return {name: i for i, name in enumerate(self.folders)}

    def of(self, name: str) -> str:
        """The search that a title is about, where there are several."""
        return f" of {name}" if self.several else ""

    def trial_key(self, search: str, trial: int) -> str:
        """What a trial is called in the page."""
        return f"{self.numbers[search]}-{trial}"

    def setting_key(self, search: str, setting_number: int) -> str:
        """What a setting is called in the page."""
        return f"{self.numbers[search]}-s{setting_number}"

    def without_search(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A table of this page: of one search, it does not name it."""
        return frame if self.several else frame.drop(columns="search")

    @cached_property
    def options(self) -> dict[str, tuple[int | None, str]]:
        """The CPU threads of the trials of each search (None: they ran on a GPU), and the folder of their data."""
        options = {}
        for name, folder in self.folders.items():
            try:
                manifest = read_manifest(folder)
            except FormatError as error:
                manifest = error.manifest
            own = manifest.get("options") or {}
            on_cpu = str(manifest.get("device", "CPU")).startswith("CPU")
            threads = max(int(own.get("cpus_per_trial") or 1), 1) if on_cpu else None
            options[name] = threads, str(own.get("data_dir") or DATA_DIR)
        return options

    def command(self, trial: pd.Series) -> str:
        """What trains a trial again; empty for a setting of another version, and where `brainreg train` cannot."""
        if trial.setting == EARLY_STOPPED:
            return ""
        try:
            return train_command(settings_of(trial), *self.options[trial.search])
        except ValueError:
            return ""
