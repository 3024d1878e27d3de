"""Which hyperparameters matter to the objective of a search, by Optuna's evaluators."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pandas as pd
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    MeanDecreaseImpurityImportanceEvaluator,
    PedAnovaImportanceEvaluator,
)
from optuna.search_space import intersection_search_space
from optuna.trial import TrialState, create_trial

from brainreg.errors import InputError, validated
from brainreg.records import MANIFEST, read_manifest, read_trials
from brainreg.results import split_folders
from brainreg.spaces import Space
from brainreg.storage import Storage, StorageError
from brainreg.study import SearchStudy, Strategy

# By the names that figures show. The first two ask what explains the objective in the whole space, the third what tells
# the best tenth of the trials from all.
EVALUATORS: dict[str, Callable[[int, int], BaseImportanceEvaluator]] = {
    "fANOVA": lambda seed, trees: FanovaImportanceEvaluator(n_trees=trees, seed=seed),
    "mean decrease impurity": lambda seed, trees: MeanDecreaseImpurityImportanceEvaluator(n_trees=trees, seed=seed),
    "PED-ANOVA": lambda seed, trees: PedAnovaImportanceEvaluator(),
}

# Of a random forest: Optuna's own default.
TREES = 64

# With fewer trials there is nothing to tell.
FEWEST_TRIALS = 5


def importances(
    folders: str | Path | Storage | Sequence[str | Path | Storage], seed: int = 0, trees: int = TREES
) -> pd.DataFrame:
    """Return how much each searched hyperparameter matters to the objective.

    Trials without parameters (given settings that are no points of the space) are left out, and those that did not
    finish. The study is made again from the trials' records, which it equals, wherever its database is. Hyperparameters
    that only some trials have, as Th_2, are no part of the comparison.

    Args:
        folders: of the searches, as `brainreg.results.load_searches` takes them.
        seed: of the random forests.
        trees: of each. fANOVA takes time for each tree: a quarter of a second, where 1,000 trials have finished.

    Returns:
        search (its folder), parameter (Optuna's name of it), evaluator, importance (a share: those of one search and
        evaluator sum to 1) and trials (how many it is made of). No rows of a search of fewer than `FEWEST_TRIALS`, one
        whose trials all have the same objective, or one of another version.

    Raises:
        InputError: a folder holds no search.
    """
    rows = []
    for name, search in split_folders(folders).items():
        try:
            study = _proposed(search)
        except StorageError:
            raise
        except InputError:
            continue
        trials = study.get_trials(deepcopy=False)
        shared = [*intersection_search_space(trials)]
        if not shared or len(trials) < FEWEST_TRIALS or len({trial.value for trial in trials}) == 1:
            continue
        for evaluator, make in EVALUATORS.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                shares = optuna.importance.get_param_importances(study, evaluator=make(seed, trees), params=shared)
            for parameter, share in shares.items():
                rows.append((name, parameter, evaluator, share, len(trials)))
    return pd.DataFrame(rows, columns=["search", "parameter", "evaluator", "importance", "trials"])


def _proposed(search: Storage) -> optuna.Study:
    """A study of one goal, the objective, of the finished trials that have parameters."""
    manifest, where = read_manifest(search), search.path(MANIFEST)
    told = SearchStudy(
        validated(Space, manifest["space"], spell=lambda key: f"{where}: space.{key}"),
        validated(Strategy, manifest["strategy"], spell=lambda key: f"{where}: strategy.{key}"),
        manifest["num_samples"],
        manifest["seed"],
        name=str(search).rsplit("/", 1)[-1],
        records=read_trials(search, damaged=[]),
    ).study
    study = optuna.create_study(direction="maximize")
    for trial in told.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if trial.params:
            objective = trial.user_attrs["objective"] if len(trial.values) > 1 else trial.values[0]
            study.add_trial(create_trial(value=objective, params=trial.params, distributions=trial.distributions))
    return study
